/*
 * syscalls OPTION... -- PROGRAM ARGUMENT...: count the system calls of a program and of all that it starts, and at the
 * k-th one stop them all, or do something else in its place.  See syscalls.py, which builds and runs this.
 *
 * -c NAME,...	the calls that count; or "all"
 * -k N		the number of the call, from 1; 0: never
 * -a ACTION	stop, stop-after: kill all before the call is made, or after
 *		kill: kill the process that makes it, and no other
 *		error=ERRNO, short: give this back instead of making the call, or write half of what it was to write
 *		signal=NUMBER: send this to all, as a terminal does, and go on
 * -f		from this call on, not only once
 * -t SECONDS	that the program may take
 * -l FD	where to write, a line each: the calls, how it ended, and how many processes outlived the program
 */
#define _GNU_SOURCE
#include "supervisor.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* headers older than 5.19 */
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "which AUDIT_ARCH_ is this?"
#endif

enum {
	SECONDS_LEFT = 5, /* that the processes of the program may outlive it, before they count */
	SECONDS_CALL = 2, /* that a call may take which is to be made before the stop */
};

enum action { STOP, STOP_AFTER, KILL, ERROR, SHORT, SIGNAL };

static struct {
	unsigned long at;
	enum action action;
	int number; /* of the error or signal */
	bool from_there_on;
	int seconds;
	FILE *log;
} options = { .seconds = 60 };

static int listener = -1;

static void answer(uint64_t id, int64_t value, int error, uint32_t flags)
{
	struct seccomp_notif_resp response = { .id = id, .val = value, .error = error, .flags = flags };

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) != 0 && errno != ENOENT) /* it was killed meanwhile */
		die(1, "answer");
}

static void let_go(uint64_t id)
{
	answer(id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

/*
 * Let the call be made, and return when it has been: its thread, which waits for our answer and wakes for nothing but
 * that and SIGKILL, stops on its way back from the kernel, before the next instruction of its own.
 */
static void let_go_and_stop(const struct seccomp_notif *call)
{
	double end = now() + SECONDS_CALL;
	pid_t thread = call->pid, ended;
	int how;

	if (ptrace(PTRACE_SEIZE, thread, 0, 0) != 0 || ptrace(PTRACE_INTERRUPT, thread, 0, 0) != 0) {
		if (errno != ESRCH) /* it was killed meanwhile */
			die(EXIT_UNABLE, "ptrace");
		return;
	}
	let_go(call->id);
	while ((ended = waitpid(thread, &how, WNOHANG | __WALL)) == 0 && now() < end)
		usleep(50);
	if (ended == program && (WIFEXITED(how) || WIFSIGNALED(how)))
		program_status = how;
}

/* Return a descriptor of ours for the open file fd of another process: the same offset. */
static int borrow(pid_t thread, int fd)
{
	char path[64], line[256];
	int pid = thread, process, found;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", thread);
	file = fopen(path, "re");
	if (file == NULL)
		return -1;
	while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "Tgid: %d", &pid) != 1)
		;
	fclose(file);
	process = syscall(SYS_pidfd_open, pid, 0);
	if (process < 0)
		return -1;
	found = syscall(SYS_pidfd_getfd, process, fd, 0);
	close(process);
	return found;
}

/* Write half of what write(2) or pwrite(2) was to write, at least a byte. */
static void write_half(const struct seccomp_notif *call)
{
	size_t size = (call->data.args[2] + 1) / 2;
	char *data = malloc(size + 1);
	int fd = borrow(call->pid, call->data.args[0]);
	ssize_t written;

	if (data == NULL || fd < 0 || !read_memory(call->pid, call->data.args[1], data, size))
		die(EXIT_UNABLE, "short write");
	if (call->data.nr == __NR_pwrite64)
		written = pwrite(fd, data, size, call->data.args[3]);
	else
		written = write(fd, data, size);
	answer(call->id, written < 0 ? 0 : written, written < 0 ? -errno : 0, 0);
	close(fd);
	free(data);
}

/* Do what is to be done at a call that counts.  Return: whether all goes on. */
static bool act(const struct seccomp_notif *call)
{
	switch (options.action) {
	case STOP:
		return false;
	case STOP_AFTER:
		let_go_and_stop(call);
		return false;
	case KILL:
		kill(call->pid, SIGKILL);
		return true;
	case SIGNAL:
		kill(-program, options.number);
		let_go(call->id);
		return true;
	case ERROR:
		answer(call->id, 0, -options.number, 0);
		return true;
	case SHORT:
		if (call->data.nr == __NR_write || call->data.nr == __NR_pwrite64)
			write_half(call);
		else
			let_go(call->id);
		return true;
	}
	return true;
}

/* Take one call.  Return: whether all goes on. */
static bool take(void)
{
	static unsigned long number;
	struct seccomp_notif call = { 0 };

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) {
		if (errno != ENOENT && errno != EINTR) /* it was killed meanwhile */
			die(1, "receive");
		return true;
	}
	if (call.data.nr < 0 || call.data.nr >= CALLS_MAX || !calls_count(&call)) {
		let_go(call.id);
		return true;
	}
	number++;
	calls_log(options.log, number, &call);
	if (options.at != 0 && (number == options.at || (options.from_there_on && number > options.at)))
		return act(&call);
	let_go(call.id);
	return true;
}

/* Serve the program until it and all its processes have ended, or are to be ended. */
static void serve(int signals)
{
	double end = now() + options.seconds, left = 0;
	const char *how = "exited";
	int survivors = 0;

	for (;;) {
		struct pollfd polls[] = { { .fd = listener, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
		struct signalfd_siginfo signal;

		poll(polls, 2, 100);
		if ((polls[0].revents & POLLIN) != 0 && !take()) {
			how = "stopped";
			break;
		}
		if ((polls[1].revents & POLLIN) != 0 && read(signals, &signal, sizeof(signal)) == sizeof(signal) &&
		    signal.ssi_signo != SIGCHLD) {
			how = "interrupted";
			break;
		}
		if (!reap())
			break;
		if (program_status >= 0 && left == 0)
			left = now() + SECONDS_LEFT;
		if (left != 0 && now() > left) {
			survivors = kill_all();
			break;
		}
		if (now() > end) {
			how = "late";
			break;
		}
		if ((polls[0].revents & POLLHUP) != 0)
			usleep(500); /* none is left that could call, but somebody has to be waited for */
	}
	kill_all();
	if (strcmp(how, "exited") == 0 && program_status >= 0 && WIFSIGNALED(program_status))
		fprintf(options.log, "end killed %d\n", WTERMSIG(program_status));
	else
		fprintf(options.log, "end %s %d\n", how, program_status >= 0 ? WEXITSTATUS(program_status) : 0);
	fprintf(options.log, "survivors %d\n", survivors);
	if (fclose(options.log) != 0)
		die(1, "log");
}

/* The filter: these calls wait for our answer, all others are made. */
static int install(void)
{
	static struct sock_filter code[2 * CALLS_MAX + 8];
	struct sock_fprog filter = { .filter = code };
	unsigned int size = 0;

	code[size++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[size++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	code[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[size++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned int nr = 0; nr < CALLS_MAX; nr++) {
		if (rules[nr] == NEVER)
			continue;
		code[size++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1);
		code[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	code[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	filter.len = size;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &filter);
}

/*
 * Start the program.  It shares our table of descriptors until it calls execve(2), so that the listener is ours as soon
 * as it exists: from then on, each call that counts waits for us, also one that would send it.
 */
static void start(char **arguments, const sigset_t *mask)
{
	volatile int *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		die(1, "mmap");
	program = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (program < 0)
		die(1, "clone");
	if (program == 0) {
		int fd;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setsid();
		sigprocmask(SIG_SETMASK, mask, NULL);
		fd = install();
		*shared = fd < 0 ? -errno : fd;
		if (fd >= 0)
			execvp(arguments[0], arguments);
		_exit(127);
	}
	while (*shared == 0)
		usleep(50);
	if (*shared < 0) {
		errno = -*shared;
		die(EXIT_UNABLE, "seccomp");
	}
	listener = *shared;
}

static void choose_action(const char *word)
{
	static const char *const actions[] = { "stop", "stop-after", "kill", "error=", "short", "signal=" };

	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
		if (strncmp(word, actions[i], strlen(actions[i])) == 0)
			options.action = i; /* the longer of two that match comes later */
	}
	if (strchr(word, '=') != NULL)
		options.number = atoi(strchr(word, '=') + 1);
}

static char **parse(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "+c:k:a:ft:l:")) != -1) {
		switch (option) {
		case 'c':
			for (char *word = strtok(optarg, ","); word != NULL; word = strtok(NULL, ","))
				calls_choose(word);
			break;
		case 'k':
			options.at = strtoul(optarg, NULL, 10);
			break;
		case 'a':
			choose_action(optarg);
			break;
		case 'f':
			options.from_there_on = true;
			break;
		case 't':
			options.seconds = atoi(optarg);
			break;
		case 'l':
			options.log = fdopen(atoi(optarg), "w");
			fcntl(atoi(optarg), F_SETFD, FD_CLOEXEC);
			break;
		default:
			exit(2);
		}
	}
	if (options.log == NULL || optind == argc) {
		fprintf(stderr, "syscalls: wants -l and a program\n");
		exit(2);
	}
	return argv + optind;
}

int main(int argc, char **argv)
{
	sigset_t wanted, before;
	char **arguments;
	int signals;

	calls_prepare();
	arguments = parse(argc, argv);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGTERM);
	sigprocmask(SIG_BLOCK, &wanted, &before);
	signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		die(1, "signalfd");
	start(arguments, &before);
	serve(signals);
	return 0;
}
