/*
 * Files in one buffer: whatever their places, each digest is that of the file alone, by every implementation, in pieces
 * and beside a stream; and places outside are refused.
 */
#include "fuzz.h"

#include <errno.h>

#define SPANS_MAX	12
#define DATA_MAX	(1 << 14)

struct parameters {
	int alg;
	u32 block_size;
	size_t salt_size, digest_size, count;
	u8 salt[32];
	struct cfs_span spans[SPANS_MAX];
};

/* Return: whether all spans are in the data, and all numbers those of fs-verity. */
static bool read_parameters(struct input *input, struct parameters *parameters)
{
	u64 odd = take(input, 1), sizes = take(input, 1);
	bool is_right = true;

	*parameters = (struct parameters){
		.alg = 1 + odd % 2,
		.block_size = 1024u << (sizes & 7),
		.salt_size = (sizes >> 3) == 31 ? 33 : (sizes >> 3) & 1 ? 32 : sizes >> 4,
		.count = take(input, 1) % SPANS_MAX,
	};
	parameters->digest_size = parameters->alg == 1 ? 32 : 64;
	if (odd > 250) {
		parameters->digest_size--;
		is_right = false;
	}
	if (parameters->block_size > 65536 || parameters->salt_size > 32)
		is_right = false;
	memset(parameters->salt, odd, sizeof(parameters->salt));
	for (size_t i = 0; i < parameters->count; i++) {
		parameters->spans[i].offset = take(input, 2);
		parameters->spans[i].size = take(input, 2);
		if (parameters->spans[i].offset == 0xffff)
			parameters->spans[i].offset = UINT64_MAX - parameters->spans[i].size;
	}
	return is_right;
}

static void check_alone(const struct parameters *p, const u8 *data, const struct cfs_span *span, const u8 *wanted)
{
	u8 *copy = exact_copy(data + span->offset, span->size), got[SHA2_DIGEST_MAX];
	struct cfs_verity *verity;

	REQUIRE(cfs_verity_digest(p->alg, p->block_size, p->salt, p->salt_size, copy, span->size, got, p->digest_size) == 0);
	REQUIRE(memcmp(got, wanted, p->digest_size) == 0);
	REQUIRE(cfs_verity_new(p->alg, p->block_size, p->salt, p->salt_size, &verity) == 0);
	for (size_t at = 0, step = 1; at < span->size; at += step, step = 2 * step + 1) {
		step = step < span->size - at ? step : span->size - at;
		REQUIRE(cfs_verity_update(verity, copy + at, step) == 0);
	}
	REQUIRE(cfs_verity_finish(verity, got, p->digest_size) == 0);
	REQUIRE(memcmp(got, wanted, p->digest_size) == 0);
	cfs_verity_free(verity);
	free(copy);
}

static void check_beside_stream(const struct parameters *p, const u8 *data, size_t size, const u8 *wanted)
{
	u8 *got = exact(p->count * p->digest_size), sum[32], wanted_sum[32];
	struct cfs_sha256 hash, alone;
	struct cfs_stream stream = { &hash, data, size };

	cfs_sha256_init(&hash);
	cfs_sha256_init(&alone);
	REQUIRE(cfs_verity_digest_spans_fused(p->alg, p->block_size, p->salt, p->salt_size, data, size, p->spans, p->count,
					      got, p->digest_size, &stream) == 0);
	REQUIRE(memcmp(got, wanted, p->count * p->digest_size) == 0);
	REQUIRE(stream.size <= size);
	cfs_sha256_update(&hash, stream.data, stream.size);
	cfs_sha256_update(&alone, data, size);
	cfs_sha256_final(&hash, sum);
	cfs_sha256_final(&alone, wanted_sum);
	REQUIRE(memcmp(sum, wanted_sum, sizeof(sum)) == 0);
	free(got);
}

/* Return: the digests that the implementation number index computes, or NULL for what is refused. */
static u8 *digests_by(const struct parameters *p, size_t index, const u8 *data, size_t size)
{
	u8 *digests = exact(p->count * p->digest_size);
	int ret;

	REQUIRE(cfs_hash_choose(p->alg, cfs_hash_name(p->alg, index)) == 0);
	ret = cfs_verity_digest_spans(p->alg, p->block_size, p->salt, p->salt_size, data, size, p->spans, p->count, digests,
				      p->digest_size);
	if (ret == 0)
		return digests;
	REQUIRE(ret == -EINVAL);
	free(digests);
	return NULL;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input input = { data, size };
	struct parameters p;
	bool is_right = read_parameters(&input, &p);
	size_t data_size = input.size < DATA_MAX ? input.size : DATA_MAX, count = 0;
	u8 *wanted, *got;

	for (size_t i = 0; i < p.count; i++)
		is_right &= p.spans[i].offset <= data_size && p.spans[i].size <= data_size - p.spans[i].offset;
	while (cfs_hash_name(p.alg, count))
		count++;
	wanted = digests_by(&p, count - 1, input.data, data_size);	/* the portable one */
	got = digests_by(&p, number_of(data, size) % count, input.data, data_size);
	REQUIRE(!wanted == !is_right && !got == !is_right);
	if (is_right) {
		REQUIRE(memcmp(wanted, got, p.count * p.digest_size) == 0);
		for (size_t i = 0; i < p.count; i++)
			check_alone(&p, input.data, &p.spans[i], got + i * p.digest_size);
		check_beside_stream(&p, input.data, data_size, got);
	}
	free(wanted), free(got);
	return 0;
}
