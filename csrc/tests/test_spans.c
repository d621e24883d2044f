/* Files in one buffer: each digest is that of the file alone, whatever lies beside it. */
#include "test.h"

#include <errno.h>
#include <string.h>

#define DATA_SIZE 600000

static u64 random_number(u64 below)
{
	static u64 state = 1;

	state = state * 6364136223846793005 + 1442695040888963407;
	return (state >> 33) % below;
}

/* Digest the spans together and alone; exact allocations let the sanitizer see what is read and written beyond. */
static void check_spans(int alg, u32 block_size, size_t salt_size, const u8 *data, size_t data_size,
			const struct cfs_span *spans, size_t count)
{
	static const u8 salt[32] = "salt";
	size_t digest_size = alg == 1 ? 32 : 64;
	u8 *got = malloc(count * digest_size + 1), want[SHA2_DIGEST_MAX];

	CHECK(got);
	CHECK(cfs_verity_digest_spans(alg, block_size, salt, salt_size, data, data_size, spans, count, got, digest_size) == 0);
	for (size_t i = 0; i < count; i++) {
		CHECK(cfs_verity_digest(alg, block_size, salt, salt_size, data + spans[i].offset, spans[i].size,
					want, digest_size) == 0);
		CHECK(memcmp(got + i * digest_size, want, digest_size) == 0);
	}
	free(got);
}

static void check_edges(int alg, u32 block_size, size_t salt_size)
{
	size_t hashes = block_size / (alg == 1 ? 32 : 64), count = 0;
	struct cfs_span spans[512];

	for (size_t blocks = 0; blocks <= 2 * hashes + 1 && blocks * block_size < DATA_SIZE - 100; blocks++) {
		if (blocks > 20 && blocks % hashes > 1 && blocks % hashes < hashes - 1)
			continue;
		for (int change = -1; change <= 1; change++)
			if (blocks > 0 || change >= 0)
				spans[count++] = (struct cfs_span){ 13, blocks * block_size + change };
	}
	spans[count++] = (struct cfs_span){ DATA_SIZE, 0 };
	CHECK(count <= ARRAY_SIZE(spans));

	u8 *data = content(DATA_SIZE);
	check_spans(alg, block_size, salt_size, data, DATA_SIZE, spans, count);
	/* One file and the end of the data. */
	for (size_t i = 0; i < count; i += 5) {
		spans[i].offset = DATA_SIZE - spans[i].size;
		check_spans(alg, block_size, salt_size, data, DATA_SIZE, &spans[i], 1);
	}
	free(data);
}

/* As many files as fill groups, most of them small, in any order and on top of each other. */
static void check_mix(int alg, size_t count)
{
	static const u64 below[] = { 1, 100, 4097, 4097, 4097, 4097, 4097, 20000, 70000, 300000 };
	struct cfs_span spans[300];
	u8 *data = content(DATA_SIZE);

	for (size_t i = 0; i < count; i++) {
		spans[i].size = random_number(below[random_number(ARRAY_SIZE(below))]);
		spans[i].offset = random_number(DATA_SIZE - spans[i].size + 1);
	}
	check_spans(alg, 4096, 0, data, DATA_SIZE, spans, count);
	free(data);
}

static void check_wrong(void)
{
	static const struct cfs_span outside[] = {
		{ 0, 101 }, { 100, 1 }, { 101, 0 }, { UINT64_MAX, 1 }, { 1, UINT64_MAX }, { UINT64_MAX, UINT64_MAX },
	};
	u8 data[100] = { 0 }, digests[2 * SHA2_DIGEST_MAX], salt[33] = { 0 };
	struct cfs_span spans[2] = { { 0, 100 }, { 0, 0 } };

	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		spans[1] = outside[i];
		CHECK(cfs_verity_digest_spans(1, 4096, NULL, 0, data, 100, spans, 2, digests, 32) == -EINVAL);
	}
	CHECK(cfs_verity_digest_spans(3, 4096, NULL, 0, data, 100, spans, 1, digests, 32) == -EINVAL);
	CHECK(cfs_verity_digest_spans(1, 4095, NULL, 0, data, 100, spans, 1, digests, 32) == -EINVAL);
	CHECK(cfs_verity_digest_spans(1, 4096, salt, 33, data, 100, spans, 1, digests, 32) == -EINVAL);
	CHECK(cfs_verity_digest_spans(1, 4096, NULL, 0, data, 100, spans, 1, digests, 64) == -EINVAL);
	CHECK(cfs_verity_digest_spans(1, 4096, NULL, 0, NULL, 0, NULL, 0, NULL, 32) == 0);

	/* No memory: for the batch, then for a file that is too large for it. */
	u8 *large = content(300000);
	spans[1] = (struct cfs_span){ 0, 300000 };
	for (int nth = 1; nth <= 2; nth++) {
		failing_malloc = nth;
		CHECK(cfs_verity_digest_spans(2, 4096, NULL, 0, large, 300000, spans, 2, digests, 64) == -ENOMEM);
	}
	free(large);
}

/* A stream hashed beside files: both digests are right, wherever it begins in a block and however long it is. */
static void check_stream(int alg, const struct cfs_span *spans, size_t count, size_t before, size_t size)
{
	size_t digest_size = alg == 1 ? 32 : 64;
	u8 *data = content(DATA_SIZE), *wanted = malloc(count * digest_size + 1), *got = malloc(count * digest_size + 1);
	u8 want[32], digest[32];
	struct cfs_sha256 whole, hash;
	struct cfs_stream stream = { &hash, data + before, size };
	struct cfs_verity *verity;

	CHECK(wanted && got);
	cfs_sha256_init(&whole);
	cfs_sha256_update(&whole, data, before + size);
	cfs_sha256_final(&whole, want);
	CHECK(cfs_verity_digest_spans(alg, 4096, NULL, 0, data, DATA_SIZE, spans, count, wanted, digest_size) == 0);

	cfs_sha256_init(&hash);
	cfs_sha256_update(&hash, data, before);
	CHECK(cfs_verity_digest_spans_fused(alg, 4096, NULL, 0, data, DATA_SIZE, spans, count, got, digest_size, &stream) == 0);
	CHECK(stream.data + stream.size == data + before + size);
	CHECK(hash.size == before + size - stream.size);
	CHECK(memcmp(wanted, got, count * digest_size) == 0);
	cfs_sha256_update(&hash, stream.data, stream.size);
	cfs_sha256_final(&hash, digest);
	CHECK(memcmp(want, digest, sizeof(want)) == 0);

	/* The same beside a file that comes in pieces. */
	cfs_sha256_init(&hash);
	cfs_sha256_update(&hash, data, before);
	stream = (struct cfs_stream){ &hash, data + before, size };
	CHECK(cfs_verity_new(alg, 4096, NULL, 0, &verity) == 0);
	CHECK(cfs_verity_update_fused(verity, data, 100001, &stream) == 0);
	CHECK(cfs_verity_update_fused(verity, data + 100001, DATA_SIZE - 100001, &stream) == 0);
	CHECK(cfs_verity_finish(verity, got, digest_size) == 0);
	cfs_verity_free(verity);
	CHECK(cfs_verity_digest(alg, 4096, NULL, 0, data, DATA_SIZE, wanted, digest_size) == 0);
	CHECK(memcmp(wanted, got, digest_size) == 0);
	cfs_sha256_update(&hash, stream.data, stream.size);
	cfs_sha256_final(&hash, digest);
	CHECK(memcmp(want, digest, sizeof(want)) == 0);
	free(data), free(wanted), free(got);
}

static void check_streams(int alg)
{
	static const size_t befores[] = { 0, 1, 63, 64, 1000 };
	static const size_t sizes[] = { 0, 1, 62, 63, 64, 65, 64 * 15, 64 * 16 + 1, 70000, DATA_SIZE - 1000 };
	struct cfs_span spans[40];

	for (size_t i = 0; i < ARRAY_SIZE(spans); i++) {
		spans[i].size = random_number(i % 10 ? 5000 : 70000);
		spans[i].offset = random_number(DATA_SIZE - spans[i].size + 1);
	}
	for (size_t b = 0; b < ARRAY_SIZE(befores); b++)
		for (size_t s = 0; s < ARRAY_SIZE(sizes); s++)
			check_stream(alg, spans, s == 0 || s > 6 ? ARRAY_SIZE(spans) : 1, befores[b], sizes[s]);
}

/* Examples of FIPS 180-4, and of all lengths that padding treats differently what one call and three give. */
static void check_sha256(void)
{
	static const struct {
		const char *text, *digest;
	} examples[] = {
		{ "", "\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24"
		      "\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55" },
		{ "abc", "\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23"
			 "\xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		  "\x24\x8d\x6a\x61\xd2\x06\x38\xb8\xe5\xc0\x26\x93\x0c\x3e\x60\x39"
		  "\xa3\x3c\xe4\x59\x64\xff\x21\x67\xf6\xec\xed\xd4\x19\xdb\x06\xc1" },
	};
	struct cfs_sha256 hash, pieces;
	u8 digest[32], other[32], *data = content(300);

	for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
		cfs_sha256_init(&hash);
		cfs_sha256_update(&hash, examples[i].text, strlen(examples[i].text));
		cfs_sha256_final(&hash, digest);
		CHECK(memcmp(digest, examples[i].digest, sizeof(digest)) == 0);
	}
	for (size_t size = 0; size <= 300; size++) {
		cfs_sha256_init(&hash);
		cfs_sha256_update(&hash, data, size);
		cfs_sha256_final(&hash, digest);
		cfs_sha256_init(&pieces);
		cfs_sha256_update(&pieces, data, size / 3);
		cfs_sha256_final(&pieces, other);	/* changes nothing */
		cfs_sha256_update(&pieces, data + size / 3, size / 2 - size / 3);
		cfs_sha256_update(&pieces, data + size / 2, size - size / 2);
		cfs_sha256_final(&pieces, other);
		CHECK(memcmp(digest, other, sizeof(digest)) == 0);
	}
	free(data);
}

void test_spans(void)
{
	const char *name;

	for (int alg = 1; alg <= 2; alg++) {
		for (size_t i = 0; (name = cfs_hash_name(alg, i)); i++) {
			CHECK(cfs_hash_choose(alg, name) == 0);
			check_edges(alg, 1024, 0);
			check_edges(alg, 4096, 0);
			check_edges(alg, 4096, 32);
			check_edges(alg, 65536, 1);
			for (size_t count = 0; count <= 20; count++)
				check_mix(alg, count);
			check_mix(alg, 300);
			check_streams(alg);
			if (alg == 1)
				check_sha256();
		}
		CHECK(cfs_hash_choose(alg, cfs_hash_name(alg, 0)) == 0);
	}
	check_wrong();
	puts("files in one buffer, streams: passed");
}
