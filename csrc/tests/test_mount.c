/* What the kernel is asked for mounts and loop devices: its refusals become -errno, its structs are filled as it wants. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_SIZE	304	/* bytes of struct loop_config */

static int asked, answer;
static u8 config[CONFIG_SIZE];

static int ioctl_answers(unsigned long request, void *arg)
{
	asked++;
	if (request == 0x4c0a)
		memcpy(config, arg, sizeof(config));
	else
		CHECK(request == 0x4c82);
	if (answer < 0) {
		errno = -answer;
		return -1;
	}
	return answer;
}

static void test_loop(void)
{
	u32 words[2], flags;

	fake_ioctl = ioctl_answers;
	answer = 7;
	CHECK(cfs_loop_find(3) == 7);
	answer = -ENOSPC;
	CHECK(cfs_loop_find(3) == -ENOSPC);
	answer = -EBUSY;
	CHECK(cfs_loop_configure(3, 4) == -EBUSY);
	answer = 0;
	CHECK(cfs_loop_configure(3, 0x1234) == 0 && asked == 4);
	fake_ioctl = NULL;

	/* fd and block size; then struct loop_info64, whose flags are its 13th word; all else is zero. */
	memcpy(words, config, sizeof(words));
	memcpy(&flags, config + 8 + 52, sizeof(flags));
	CHECK(words[0] == 0x1234 && words[1] == 4096 && flags == (1 | 4 | 16));
	memset(config, 0, sizeof(words));
	memset(config + 8 + 52, 0, sizeof(flags));
	for (size_t i = 0; i < sizeof(config); i++)
		CHECK(config[i] == 0);
}

/* A file is the same one in the mount of a directory, for reading, also where it has no name. */
static void test_reopen_near(int dir_fd)
{
	char back[4];
	int fd = cfs_store_file(dir_fd, "near", 4), near;

	CHECK(fd >= 0);
	near = cfs_reopen_near(fd, dir_fd);
	if (near >= 0) {
		CHECK((fcntl(near, F_GETFL) & O_ACCMODE) == O_RDONLY && fcntl(near, F_GETFD) == FD_CLOEXEC);
		CHECK(pread(near, back, sizeof(back), 0) == 4 && memcmp(back, "near", 4) == 0);
		close(near);
	} else {	/* who is not root, and file systems that know no handles */
		CHECK(near == -EPERM || near == -EOPNOTSUPP);
	}
	CHECK(cfs_reopen_near(-1, dir_fd) == -EBADF);
	close(fd);
}

void test_mounts(int dir_fd)
{
	test_loop();
	test_reopen_near(dir_fd);

	/* ENODEV, or what those hear who may not mount; qemu knows none of the calls. */
	CHECK(cfs_fsopen("no such file system") < 0);
	CHECK(cfs_fsconfig(-1, 1, "key", "value", 0) < 0);
	CHECK(cfs_fsmount(-1, 0) < 0);
	CHECK(cfs_move_mount(-1, "/no such directory") < 0);
	CHECK(cfs_clone_mount(-1) < 0);
	CHECK(cfs_idmap_mount(-1, -1) < 0);
	CHECK(cfs_unmount("/no such directory", 0) < 0);
}
