/*
 * Runs a fuzz target where there is no libFuzzer: all files of the corpus, and then mutations of them, which are
 * functions of the seed.  Takes the options of libFuzzer that tests/fuzz uses, and saves an input that aborts.
 */
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_MAX	4096
#define SIZE_MAX_	(1 << 20)	/* bytes of an input */

void __sanitizer_set_death_callback(void (*callback)(void));

static struct { u8 *data; size_t size; } corpus[FILES_MAX];
static size_t corpus_size;
static u8 *current;
static size_t current_size, max_size = 65536, executed;
static unsigned int timeout;
static const char *prefix = "";
static u64 state;

size_t LLVMFuzzerMutate(u8 *data, size_t size, size_t max)
{
	static const u8 bytes[] = { 0, 1, ' ', '/', '.', '0', '7', '8', 0x7f, 0x80, 0xff };
	size_t at, length;

	if (size == 0) {
		*data = next_number(&state, 256);
		return max > 0;
	}
	at = next_number(&state, size);
	length = 1 + next_number(&state, next_number(&state, 4) ? 8 : size);
	if (length > size - at)
		length = size - at;
	switch (next_number(&state, 8)) {
	case 0:
		data[at] ^= 1 << next_number(&state, 8);
		break;
	case 1:
		memset(data + at, bytes[next_number(&state, sizeof(bytes))], length);
		break;
	case 2:
		memmove(data + at, data + at + length, size - at - length);
		size -= length;
		break;
	case 3:	/* the same twice */
		if (length > max - size)
			length = max - size;
		memmove(data + at + length, data + at, size - at);
		size += length;
		break;
	case 4:	/* another part in its place */
		memmove(data + at, data + next_number(&state, size - length + 1), length);
		break;
	case 5:
		size = at;
		break;
	case 6:
		data[at] += next_number(&state, 9) - 4;
		break;
	default:
		data[at] = next_number(&state, 256);
	}
	return size;
}

/* A target may have one of its own. */
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max, unsigned int seed)
{
	(void)seed;
	return LLVMFuzzerMutate(data, size, max);
}

static void save(void)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%scrash-%zu-%llx", prefix, executed, (unsigned long long)number_of(current, current_size));
	file = fopen(path, "wb");
	if (file) {
		fwrite(current, 1, current_size, file);
		fclose(file);
		fprintf(stderr, "saved %s\n", path);
	}
}

static void stop(int number)
{
	fprintf(stderr, "%s\n", number == SIGALRM ? "too slow" : "aborted");
	save();
	_exit(77);
}

static void run(const u8 *data, size_t size)
{
	current = exact_copy(data, size);
	current_size = size;
	executed++;
	alarm(timeout);
	LLVMFuzzerTestOneInput(current, size);
	alarm(0);
	free(current);
}

static void read_file(const char *path)
{
	FILE *file = fopen(path, "rb");

	if (!file || corpus_size == FILES_MAX)
		return;
	corpus[corpus_size].data = exact(SIZE_MAX_);
	corpus[corpus_size].size = fread(corpus[corpus_size].data, 1, SIZE_MAX_, file);
	fclose(file);
	corpus_size++;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In the order of their names: what follows depends on it. */
static void read_directory(const char *path)
{
	static char *names[FILES_MAX];
	DIR *directory = opendir(path);
	struct dirent *entry;
	size_t count = 0;

	while (directory && (entry = readdir(directory)) && count < FILES_MAX)
		if (entry->d_name[0] != '.')
			names[count++] = strdup(entry->d_name);
	if (directory)
		closedir(directory);
	qsort(names, count, sizeof(names[0]), by_name);
	for (size_t i = 0; i < count; i++) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, names[i]);
		read_file(file);
		free(names[i]);
	}
}

static void mutate_and_run(u8 *buffer)
{
	size_t size = 0;

	if (corpus_size) {
		size_t chosen = next_number(&state, corpus_size);

		size = corpus[chosen].size < max_size ? corpus[chosen].size : max_size;
		memcpy(buffer, corpus[chosen].data, size);
	}
	for (u64 n = 1 + next_number(&state, 4); n > 0; n--)
		size = LLVMFuzzerCustomMutator(buffer, size, max_size, next_number(&state, UINT32_MAX));
	run(buffer, size);
}

int main(int argc, char **argv)
{
	size_t runs = 0, is_file = 0;
	struct rusage usage;
	struct stat status;
	u8 *buffer;

	for (int i = 1; i < argc; i++) {
		unsigned long long number;

		if (sscanf(argv[i], "-runs=%llu", &number) == 1)
			runs = number;
		else if (sscanf(argv[i], "-seed=%llu", &number) == 1)
			state = number;
		else if (sscanf(argv[i], "-timeout=%llu", &number) == 1)
			timeout = number;
		else if (sscanf(argv[i], "-max_len=%llu", &number) == 1 && number <= SIZE_MAX_)
			max_size = number;
		else if (strncmp(argv[i], "-artifact_prefix=", 17) == 0)
			prefix = argv[i] + 17;
		else if (argv[i][0] != '-' && stat(argv[i], &status) == 0 && S_ISDIR(status.st_mode))
			read_directory(argv[i]);
		else if (argv[i][0] != '-')
			is_file = (read_file(argv[i]), 1);
	}
	__sanitizer_set_death_callback(save);
	signal(SIGABRT, stop);
	signal(SIGALRM, stop);
	for (size_t i = 0; i < corpus_size; i++)
		run(corpus[i].data, corpus[i].size);
	buffer = exact(max_size);
	while (!is_file && executed < runs)
		mutate_and_run(buffer);
	free(buffer);
	for (size_t i = 0; i < corpus_size; i++)
		free(corpus[i].data);
	getrusage(RUSAGE_SELF, &usage);
	fprintf(stderr, "stat::number_of_executed_units: %zu\nstat::peak_rss_mb: %ld\n", executed, usage.ru_maxrss / 1024);
	return 0;
}
