/* What the parts of the supervisor share; syscalls.c has its main function. */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { EXIT_UNABLE = 77 }; /* the kernel does not let us do this */

/* calls.c: which calls count, and what they are about */

enum { CALLS_MAX = 1024 }; /* numbers of calls */

/* What makes a call count, beside its number. */
enum rule {
	NEVER,
	ALWAYS,
	CREATES, /* it opens a file and may create or cut it */
	TO_FILE, /* it writes to a regular file */
	CHANGES, /* this ioctl changes a file */
};

extern enum rule rules[CALLS_MAX];

void calls_prepare(void);
void calls_choose(char *word); /* NAME, or NAME:creates, NAME:file, NAME:changes; or "all" */
bool calls_count(const struct seccomp_notif *call);
void calls_log(FILE *log, unsigned long number, const struct seccomp_notif *call);
bool read_memory(pid_t pid, uint64_t address, void *data, size_t size);

/* processes.c: the program and all that it started */

extern pid_t program;
extern int program_status; /* as waitpid(2) tells it; -1: it still runs */

void die(int code, const char *what) __attribute__((noreturn));
double now(void); /* seconds */
bool reap(void);
int kill_all(void);

#endif
