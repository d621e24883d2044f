/* What the fuzz targets share; their entry points are those of libFuzzer, which driver.c has, too. */
#ifndef CFS_FUZZ_H
#define CFS_FUZZ_H

#include "cfs.h"	/* first: it asks for GNU's extensions */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What must hold, whatever the input: it ends the process, and the fuzzer keeps the input. */
#define REQUIRE(condition) do {								\
	if (!(condition)) {								\
		fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);	\
		abort();								\
	}										\
} while (0)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
size_t LLVMFuzzerMutate(u8 *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max_size, unsigned int seed);

/* An input that is read as numbers; behind its end they are zero. */
struct input {
	const u8 *data;
	size_t size;
};

static inline u64 take(struct input *input, size_t bytes)
{
	u64 value = 0;

	for (size_t i = 0; i < bytes; i++) {
		value = value << 8 | (input->size ? *input->data : 0);
		if (input->size) {
			input->data++;
			input->size--;
		}
	}
	return value;
}

/* Memory of just that size, so that the sanitizer sees what is touched beyond; for none, too. */
static inline void *exact(size_t size)
{
	void *memory = malloc(size ? size : 1);

	REQUIRE(memory);
	return memory;
}

static inline void *exact_copy(const void *data, size_t size)
{
	return size ? memcpy(exact(size), data, size) : exact(0);
}

/* A cheap number that depends on the input alone. */
static inline u64 number_of(const u8 *data, size_t size)
{
	u64 state = size;

	for (size_t i = 0; i < size; i += 1 + size / 64)
		state = state * 6364136223846793005 + data[i] + 1442695040888963407;
	return state >> 33;
}

static inline u64 next_number(u64 *state, u64 below)
{
	*state = *state * 6364136223846793005 + 1442695040888963407;
	return (*state >> 33) % below;
}

#endif
