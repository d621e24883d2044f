/* Which system calls count, and what they are about: a path or an open file. */
#define _GNU_SOURCE
#include "supervisor.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ENABLE_VERITY _IOW('f', 133, char[128]) /* FS_IOC_ENABLE_VERITY, which old headers lack */
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { PATH_SIZE = 4096, PIECE_SIZE = 256 }; /* bytes; a piece never spans pages */

enum rule rules[CALLS_MAX];

static const struct {
	const char *name;
	enum rule rule;
} qualifiers[] = { { "creates", CREATES }, { "file", TO_FILE }, { "changes", CHANGES } };

/* The calls of this machine; calls.h is made of <asm/unistd.h>. */
static const struct {
	const char *name;
	int nr;
} calls[] = {
#define CALL(name) { #name, __NR_##name },
#include "calls.h"
#undef CALL
};

/* Which argument is a path, the directory that it is relative to, or a descriptor; -1: none. */
static const struct subject {
	const char *name;
	signed char dir, path, fd;
} subjects[] = {
	{ "open", -1, 0, -1 },		{ "creat", -1, 0, -1 },		{ "openat", 0, 1, -1 },
	{ "openat2", 0, 1, -1 },	{ "mkdir", -1, 0, -1 },		{ "mkdirat", 0, 1, -1 },
	{ "rmdir", -1, 0, -1 },		{ "unlink", -1, 0, -1 },	{ "unlinkat", 0, 1, -1 },
	{ "rename", -1, 1, -1 },	{ "renameat", 2, 3, -1 },	{ "renameat2", 2, 3, -1 },
	{ "link", -1, 1, -1 },		{ "linkat", 2, 3, -1 },		{ "symlink", -1, 1, -1 },
	{ "symlinkat", 1, 2, -1 },	{ "mknod", -1, 0, -1 },		{ "mknodat", 0, 1, -1 },
	{ "truncate", -1, 0, -1 },	{ "chmod", -1, 0, -1 },		{ "fchmodat", 0, 1, -1 },
	{ "readlink", -1, 0, -1 },	{ "readlinkat", 0, 1, -1 },	{ "newfstatat", 0, 1, -1 },
	{ "stat", -1, 0, -1 },		{ "lstat", -1, 0, -1 },		{ "statx", 0, 1, -1 },
	{ "access", -1, 0, -1 },	{ "faccessat", 0, 1, -1 },	{ "faccessat2", 0, 1, -1 },
	{ "execve", -1, 0, -1 },	{ "setxattr", -1, 0, -1 },	{ "write", -1, -1, 0 },
	{ "pwrite64", -1, -1, 0 },	{ "writev", -1, -1, 0 },	{ "pwritev", -1, -1, 0 },
	{ "pwritev2", -1, -1, 0 },	{ "sendfile", -1, -1, 0 },	{ "copy_file_range", -1, -1, 2 },
	{ "splice", -1, -1, 2 },	{ "ftruncate", -1, -1, 0 },	{ "fallocate", -1, -1, 0 },
	{ "fsync", -1, -1, 0 },		{ "fdatasync", -1, -1, 0 },	{ "syncfs", -1, -1, 0 },
	{ "fchmod", -1, -1, 0 },	{ "fchown", -1, -1, 0 },	{ "fsetxattr", -1, -1, 0 },
	{ "ioctl", -1, -1, 0 },		{ "flock", -1, -1, 0 },		{ "read", -1, -1, 0 },
	{ "pread64", -1, -1, 0 },	{ "getdents64", -1, -1, 0 },	{ "lseek", -1, -1, 0 },
	{ "close", -1, -1, 0 },
};

static const char *names[CALLS_MAX];
static const struct subject *subject_of[CALLS_MAX];

void calls_prepare(void)
{
	for (size_t i = 0; i < LENGTH(calls); i++) {
		names[calls[i].nr] = calls[i].name;
		for (size_t j = 0; j < LENGTH(subjects); j++) {
			if (strcmp(calls[i].name, subjects[j].name) == 0)
				subject_of[calls[i].nr] = &subjects[j];
		}
	}
}

/* Let the call of that name count; other machines have others, so an unknown name is none. */
void calls_choose(char *word)
{
	char *qualifier = strchr(word, ':');
	bool all = strcmp(word, "all") == 0;
	enum rule rule = ALWAYS;

	if (qualifier != NULL) {
		*qualifier++ = '\0';
		rule = NEVER;
		for (size_t i = 0; i < LENGTH(qualifiers); i++) {
			if (strcmp(qualifiers[i].name, qualifier) == 0)
				rule = qualifiers[i].rule;
		}
	}
	for (size_t i = 0; i < LENGTH(calls); i++) {
		if (all || strcmp(calls[i].name, word) == 0)
			rules[calls[i].nr] = rule;
	}
}

bool read_memory(pid_t pid, uint64_t address, void *data, size_t size)
{
	struct iovec local = { data, size }, remote = { (void *)(uintptr_t)address, size };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

/* Read a string of another process, of which the page may end before size bytes do. */
static void read_string(pid_t pid, uint64_t address, char *text, size_t size)
{
	size_t have = 0;

	while (have < size - 1) {
		size_t part = PIECE_SIZE - (address + have) % PIECE_SIZE;

		if (part > size - 1 - have)
			part = size - 1 - have;
		if (!read_memory(pid, address + have, text + have, part))
			break;
		if (memchr(text + have, '\0', part) != NULL)
			return;
		have += part;
	}
	text[have] = '\0';
}

/* Read where a link of /proc/PID leads. */
static void read_place(pid_t pid, int fd, char *text, size_t size)
{
	char path[64];
	ssize_t count;

	if (fd == AT_FDCWD)
		snprintf(path, sizeof(path), "/proc/%d/cwd", pid);
	else
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	count = readlink(path, text, size - 1);
	text[count < 0 ? 0 : count] = '\0';
}

void calls_log(FILE *log, unsigned long number, const struct seccomp_notif *call)
{
	const struct subject *subject = subject_of[call->data.nr];
	char place[PATH_SIZE] = "", path[PATH_SIZE] = "";
	const char *name = names[call->data.nr];

	if (subject != NULL && subject->fd >= 0)
		read_place(call->pid, call->data.args[subject->fd], place, sizeof(place));
	if (subject != NULL && subject->path >= 0) {
		read_string(call->pid, call->data.args[subject->path], path, sizeof(path));
		if (path[0] != '/')
			read_place(call->pid, subject->dir < 0 ? AT_FDCWD : (int)call->data.args[subject->dir], place,
				   sizeof(place));
	}
	fprintf(log, "call %lu %u %s ", number, call->pid, name != NULL ? name : "unknown");
	for (const char *text = place; *text != '\0'; text++)
		fputc(*text < ' ' ? '?' : *text, log);
	if (place[0] != '\0' && path[0] != '\0')
		fputc('/', log);
	for (const char *text = path; *text != '\0'; text++)
		fputc(*text < ' ' ? '?' : *text, log);
	fputc('\n', log);
}

static bool is_regular(pid_t pid, int fd)
{
	char path[64];
	struct stat info;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool creates(const struct seccomp_notif *call)
{
	uint64_t flags = 0;

	switch (call->data.nr) {
#ifdef __NR_open
	case __NR_open:
		flags = call->data.args[1];
		break;
#endif
#ifdef __NR_creat
	case __NR_creat:
		return true;
#endif
	case __NR_openat:
		flags = call->data.args[2];
		break;
	case __NR_openat2: /* struct open_how begins with the flags */
		read_memory(call->pid, call->data.args[2], &flags, sizeof(flags));
		break;
	}
	return (flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))) != 0;
}

static bool changes(uint64_t request)
{
	return request == FICLONE || request == FICLONERANGE || request == FS_IOC_SETFLAGS ||
	       request == ENABLE_VERITY;
}

bool calls_count(const struct seccomp_notif *call)
{
	const struct subject *subject = subject_of[call->data.nr];

	switch (rules[call->data.nr]) {
	case CREATES:
		return creates(call);
	case TO_FILE:
		return subject == NULL || subject->fd < 0 || is_regular(call->pid, call->data.args[subject->fd]);
	case CHANGES:
		return changes(call->data.args[1]);
	default:
		return true;
	}
}
