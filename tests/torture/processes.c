/* The program, and all processes that it started: we are their reaper, so they become ours when their parents end. */
#define _GNU_SOURCE
#include "supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

pid_t program;
int program_status = -1;

/* Say what failed, as errno has it, and end; nothing is left running. */
void die(int code, const char *what)
{
	fprintf(stderr, "syscalls: %s: %s\n", what, strerror(errno));
	if (program > 0) {
		program = 0; /* or it would begin again where killing fails */
		kill_all();
	}
	exit(code);
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Reap what has ended.  Return: whether any process is left. */
bool reap(void)
{
	int how;
	pid_t pid;

	while ((pid = waitpid(-1, &how, WNOHANG | __WALL)) > 0) {
		if (pid == program && (WIFEXITED(how) || WIFSIGNALED(how)))
			program_status = how;
	}
	return pid == 0;
}

/* List the processes that descend from us and have not ended.  Return: how many, at most max. */
static int descendants(pid_t *found, int max)
{
	static struct { pid_t pid, parent; bool is_ours, has_ended; } all[65536];
	int count = 0, ours = 0;
	struct dirent *entry;
	bool more = true;
	DIR *proc = opendir("/proc");

	if (proc == NULL)
		die(1, "/proc");
	while ((entry = readdir(proc)) != NULL && count < (int)(sizeof(all) / sizeof(all[0]))) {
		char path[300], text[512], *rest, state;
		int fd, size, parent;

		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		size = fd < 0 ? -1 : (int)read(fd, text, sizeof(text) - 1);
		if (fd >= 0)
			close(fd);
		if (size <= 0)
			continue; /* it has ended meanwhile */
		text[size] = '\0';
		rest = strrchr(text, ')');
		if (rest == NULL || sscanf(rest + 1, " %c %d", &state, &parent) != 2)
			continue;
		all[count].pid = atoi(entry->d_name);
		all[count].parent = parent;
		all[count].is_ours = parent == getpid();
		all[count++].has_ended = state == 'Z' || state == 'X';
	}
	closedir(proc);
	while (more) {
		more = false;
		for (int i = 0; i < count; i++) {
			for (int j = 0; j < count && !all[i].is_ours; j++) {
				if (all[j].is_ours && all[j].pid == all[i].parent)
					more = all[i].is_ours = true;
			}
		}
	}
	for (int i = 0; i < count && ours < max; i++) {
		if (all[i].is_ours && !all[i].has_ended)
			found[ours++] = all[i].pid;
	}
	return ours;
}

/* Kill all of them, also what left its session, and wait until none is left.  Return: how many there were at first. */
int kill_all(void)
{
	pid_t pids[4096];
	int first = -1;

	do {
		int count = descendants(pids, sizeof(pids) / sizeof(pids[0]));

		if (first < 0)
			first = count;
		for (int i = 0; i < count; i++)
			kill(pids[i], SIGKILL);
		usleep(500);
	} while (reap());
	return first;
}
