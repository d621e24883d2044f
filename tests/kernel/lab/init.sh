#!/busybox sh
# First program of a guest: load modules, and make a root file system of the host's directories, which are read-only,
# and of new ones in memory.
fail() {
	echo "lab: $*"
	echo o >/proc/sysrq-trigger
	sleep 60
}

/busybox mkdir -p /proc /sys /dev /host /new_root
/busybox mount -t proc proc /proc # busybox finds its other commands in itself, by /proc/self/exe
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
	insmod "$module" || fail "cannot load $module"
done

mount -t virtiofs -o ro host /host || fail "the host's files are not there"
mount -t tmpfs -o mode=755 root /new_root
for path in /host/*; do
	name=${path##*/}
	if [ -L "$path" ]; then
		cp -d "$path" "/new_root/$name"
	elif [ -d "$path" ]; then
		mkdir "/new_root/$name"
		case $name in
		proc | sys | dev | tmp | run | mnt) ;;
		*) mount --bind "$path" "/new_root/$name" ;;
		esac
	fi
done
for name in tmp run mnt; do
	mount -t tmpfs -o mode=1777 "$name" "/new_root/$name"
done
while read -r path; do # what the command needs and those have just hidden
	mkdir -p "/new_root$path"
	mount --bind "/host$path" "/new_root$path" || fail "cannot show $path"
done </lab/shown

for device in /sys/block/vd*; do
	name=$(cat "$device/serial")
	case $name in
	results | raw-*) ln -s "${device##*/}" "/dev/$name" ;;
	*)
		mkdir -p "/new_root/disks/$name"
		mount -t "$name" "/dev/${device##*/}" "/new_root/disks/$name" || fail "cannot mount the disk $name"
		;;
	esac
done

mkdir /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
chmod 666 /dev/fuse # as udev would
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
ifconfig lo 127.0.0.1 up
hostname lab

mkdir /new_root/lab /new_root/lab/results
cp /busybox /lab/* /new_root/lab
for name in dev sys proc; do
	mount --move "/$name" "/new_root/$name"
done
exec /busybox switch_root /new_root /lab/busybox sh /lab/start
