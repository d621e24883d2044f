/* The system calls of file system contexts and mounts, and loop devices: there is a wrapper for few of them in glibc. */
#include "cfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/loop.h>

/*
 * Kernel headers older than 5.12, such as those of the manylinux_2_28 images, lack some of these, and old C libraries
 * have none.  Where the headers do not say, the numbers are those of every architecture but Alpha and MIPS.
 */
#if defined(__alpha__) || defined(__mips__)
#if !defined(SYS_fsopen) || !defined(SYS_mount_setattr)
#error "kernel headers of 5.12 or newer are needed here"
#endif
#endif
#ifndef SYS_move_mount
#define SYS_move_mount		429
#define SYS_fsopen		430
#define SYS_fsconfig		431
#define SYS_fsmount		432
#endif
#ifndef SYS_open_tree
#define SYS_open_tree		428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr	442
#endif

/* <linux/mount.h>, which cannot be included beside the <sys/mount.h> of old C libraries. */
#ifndef FSOPEN_CLOEXEC
#define FSOPEN_CLOEXEC		0x1
#endif
#ifndef FSMOUNT_CLOEXEC
#define FSMOUNT_CLOEXEC		0x1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH	0x4
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE		0x1
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP	0x100000
#endif

/* struct mount_attr, whose first version this is; a tag of our own, since some headers have the other. */
struct mount_attributes {
	u64 attr_set, attr_clr, propagation, userns_fd;
};
_Static_assert(sizeof(struct mount_attributes) == 32, "the kernel's ABI");

/* <linux/loop.h> before 5.8 lacks LOOP_CONFIGURE. */
#ifdef LOOP_CONFIGURE
typedef struct loop_config loop_configuration;
#else
typedef struct {
	u32 fd, block_size;
	struct loop_info64 info;
	u64 __reserved[8];
} loop_configuration;

#define LOOP_CONFIGURE		0x4c0a
#endif
_Static_assert(sizeof(loop_configuration) == 304, "the kernel's ABI");

static int result(long ret)
{
	return ret < 0 ? -errno : (int)ret;
}

/* Return: a context for a file system of that type, or the -errno of fsopen(2). */
int cfs_fsopen(const char *type)
{
	return result(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
}

/* Return: 0, or the -errno of fsconfig(2). */
int cfs_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux)
{
	return result(syscall(SYS_fsconfig, fd, command, key, value, aux));
}

/* Return: a detached mount of what the context made, or the -errno of fsmount(2).  attributes: MOUNT_ATTR_*. */
int cfs_fsmount(int fd, unsigned int attributes)
{
	return result(syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes));
}

/* Attach the detached mount fd at path.  Return: 0, or the -errno of move_mount(2). */
int cfs_move_mount(int fd, const char *path)
{
	return result(syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH));
}

/* Return: a detached mount of the directory fd, as with mount --bind, or the -errno of open_tree(2). */
int cfs_clone_mount(int fd)
{
	return result(syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | O_CLOEXEC));
}

/* Let the detached mount fd show ids as the user namespace maps them.  Return: 0, or the -errno of mount_setattr(2). */
int cfs_idmap_mount(int fd, int user_namespace_fd)
{
	struct mount_attributes attributes = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = user_namespace_fd };

	return result(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)));
}

/* Return: 0, or the -errno of umount2(2). */
int cfs_unmount(const char *path, int flags)
{
	return result(umount2(path, flags));
}

/* Return: the number of a loop device that is free, until another takes it, or the -errno of LOOP_CTL_GET_FREE. */
int cfs_loop_find(int control_fd)
{
	return result(ioctl(control_fd, LOOP_CTL_GET_FREE));
}

/*
 * Let the loop device show the file, to be read in blocks of 4096 bytes, until the last who uses the device is gone.
 * Return: 0, -EBUSY if it is another's already, or another -errno of LOOP_CONFIGURE.
 */
int cfs_loop_configure(int loop_fd, int file_fd)
{
	loop_configuration config = {
		.fd = file_fd,
		.block_size = 4096,
		.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};

	return result(ioctl(loop_fd, LOOP_CONFIGURE, &config));
}
