/* What a tar reader does for every header. */
#include "cfs.h"

uint64_t cfs_sum_bytes(const void *data, size_t size)
{
	const u8 *bytes = data;
	u64 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	return sum;
}
