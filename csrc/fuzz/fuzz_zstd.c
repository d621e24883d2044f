/* zstd frames: wherever data are cut, they end at the same places, and the same part is none. */
#include "fuzz.h"

#define WINDOW_MAX	(1u << 27)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct cfs_frames whole, pieces;
	u64 state = number_of(data, size);
	u8 *copy = exact_copy(data, size);
	size_t at = 0, end = 0;
	int wanted, got = 0;

	cfs_frames_init(&whole, 0);
	cfs_frames_init(&pieces, 0);
	wanted = cfs_frames_walk(&whole, copy, size, WINDOW_MAX);
	free(copy);
	while (at < size && got == 0) {
		size_t step = 1 + next_number(&state, next_number(&state, 2) ? 8 : size);

		step = step < size - at ? step : size - at;
		copy = exact_copy(data + at, step);
		got = cfs_frames_walk(&pieces, copy, step, WINDOW_MAX);
		free(copy);
		at += step;
		REQUIRE(pieces.end >= end && pieces.end <= pieces.offset && pieces.offset <= at);
		REQUIRE(got != 0 || pieces.offset == at);
		end = pieces.end;
	}
	REQUIRE(got == wanted && pieces.offset == whole.offset && pieces.end == whole.end);
	REQUIRE(got == 3 || whole.window <= WINDOW_MAX);
	return 0;
}
