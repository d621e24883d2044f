/*
 * Every function of the extension at its edges, for the sanitizers and gcov: see run.sh.  The linker puts the
 * __wrap_*() functions below in the place of what can fail (--wrap), so that failures can be ordered.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const int algs[] = { 1, 2 };
static const size_t digest_sizes[] = { 0, 32, 64 };

/* Digests that `fsverity digest` of fsverity-utils 1.5 gave; byte i of the content is 7 i + i / 256. */
static const struct vector {
	size_t size;
	u32 block_size;
	size_t salt_size;	/* 1: the byte 1; 32: the bytes 0 to 31 */
	const char *digests[2];
} vectors[] = {
	{ 0, 4096, 0, {
		"3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
		"ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1"
		"0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf" } },
	{ 1, 4096, 0, {
		"b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
		"9fcf5172b085b1c8f9365eecb37a1869e193a4705654a5829f11939cd01d5c0f"
		"d97276be8cd9d49f76cfc8dcfeb80f8128e3548a1de50b56912b9e3fc7bde27b" } },
	{ 4095, 4096, 0, {
		"036811a3f3360df7c779a29d40d2561d03d020f5219b2c42aa93d9d545e05e26",
		"3951d6b23b999ecce4c74361cf7955c1decee01bfd002f9b0b66880dd3cd3ff0"
		"43892177c79a9277ddd13e13acada7be6827953c7c6ab69edcdfc6618c17a85b" } },
	{ 4096, 4096, 0, {
		"dba6800c0bddc2369f4f0ab54798f65f5a8c1f49adc4a4792a831ff4b093e2d7",
		"4f4e6978b5ce371c6e0dc1efc9308d90df166340b3641f6b777522d72b320272"
		"b6e9822169871be52218bb9a07111e6854779c4a3c404c87c4e4a36afbc9ce76" } },
	{ 4097, 4096, 0, {
		"fefe00b4a113721b31dbc100ba46ff68ba3c9ca6dc62c6a3c1e71db190c68f9f",
		"eb7d177cfe47ea2c38da12df22cea2408e875af57dd50f110383540a0e8a8572"
		"59705c895f861c9ef0189ea6fd2e1ad146b97eaa1639ebb68fdd3db21d1af4f0" } },
	{ 262144, 4096, 0, {
		"206192171eadd1e33f16f3a6f79141bf9491a416926fedb65560276cdf75d0f4",
		"cfc6b0960ba819e9b6277d72564c00b7caef4eb07efe7901e966094b2733f5ce"
		"ca505f3afbf56b8aceb09087eaa30236e6c07259c9f077372e6704ef74d5d357" } },
	{ 262145, 4096, 0, {
		"a3babf83390315e9529983c9caf6b10997d91d2e32879ec8cb20a5273ba9f5a2",
		"165589577c209c5c8d1ab13c09bbef6f382cd716c365981cd632c7ab17aa4eaa"
		"63238fb7a5fca8f0a3c4d2060909d0e51e04687b6aa4232eaf94c9637d9aca06" } },
	{ 524288, 4096, 0, {
		"eaae8cbd17127f6514707a04477de56880466f212f12d13c4397e929b54d8f5a",
		"0937be6f44e1812ba8b096610647758aa2518e25f02429f14d45b4d604bad8ba"
		"a47d085a3bff146aa0d99a905c97482573ec300bb8b399b1d51af9dc6d5a795c" } },
	{ 524289, 4096, 0, {
		"0e3b4b2d25eb9005be08661772bd35783c1fba25ba74e6a63693f072dad036ce",
		"06decb330ef498d9820998e286a72e90d44880c2a791cdb662f1a8e69935e59e"
		"a31defc38a23dd2997d3e5d71ab619923a7a4d06ad951f89aa66e7377a163e57" } },
	{ 5000000, 4096, 0, {
		"ce47178d8cff8f1725554bed454e53f19bdc50fabe31b157d5c6ed3f7d755935",
		"591a42b6babc327fff469edde34b82e3ea6430e38447c2e190e18ab17f768c95"
		"dae0168f5efdad84648c0f49d1e4fe1877e01dadc92cafc39dba77b84eeef8af" } },
	{ 16777217, 4096, 0, {
		"265581fe2cbf766b2467baa11c967a0eecb393863ce94a8c25b5ba642b35767d",
		"9167e891a42de999c04be104b5c3123a12c9cc0f7fc8e51f6953904465b914dc"
		"6da861ce6b0c561ce74925fc545d6dbc1a01111a57dd29d10c7a0ee166032a4c" } },
	{ 0, 4096, 1, {
		"0cc19e6af7af70e76332b8a8bcb2a12ece03b608ad23519c7ec50c2770f2d4be",
		"e6de5439ddafa9bdada07d0e5bfb2e13502c712ba9cba9f17229c338ddf26010"
		"62ce7aee97db2f65615d62fac9b6d4dd64f4340a7ce5eb6569a3a69e3339a1f4" } },
	{ 300000, 4096, 1, {
		"a042b3e72092920585fea4e6deda887d3a2748214d3117ed6a713a7d97f83d6f",
		"d4848a11eec60e36bfeda75a61c970ca898ccc4ed4f33146b3fe6e4ddb7b8869"
		"4fb6d749392af1b26d85b684ae2f22264bbec9e1a8f6db002d854f78bd5fb35a" } },
	{ 300000, 4096, 32, {
		"9cc131f0258a55d415228ecd3fadc2e400380e5ac38aa7f343b9726e576efbff",
		"8e990dd8dd2205fd5bfdcfd50bcf7085c95fdcd0f2c4581774d60544460a9ab5"
		"d3f0659fe71b3a44b6f27598b782166361102e54e302c7a8bd638fb6257d9425" } },
	{ 65536, 65536, 0, {
		"b04f631358a1bf8f8663752a28333a748540517d96e43eb7d06bc1fe7063b02e",
		"4fd3bb5e22deddb3c5b0696972db60301553626c3121a8c19040e207f3168fbd"
		"2194efe4f70984ceb88763e34bcb003bcff77926c59694fa76ae5e41a09aa5f6" } },
	{ 65537, 65536, 0, {
		"39f20a16dd8597f8da7a3db5bfa5483a3c0d28d2eb8bd94f0cacb7e8f6315566",
		"793dcb1db67edd1d39c363d833cc72afcbe89a3f69138848e792e55a569569ef"
		"6cc191b3801dbaf7fe2b80ac98b8d525ec3ddf009e996738002323fb4f884d73" } },
	{ 1100000, 65536, 1, {
		"acf9d8c13b4b4f4bc7ec93fbb0c5ef206f837ce4a59a68cdb96f32819acf82e0",
		"5aaf80651c43f04b70c6032deda88747d7b8893fbe2303c153e9f22597ed8943"
		"fa190552aceb819c784eb1aeb7267b9225ade5841361ec9e849eb22800a3c606" } },
	{ 40000, 1024, 0, {
		"c4fe43a1eba9ccaff48371ad879cdf3cd1727cc6e875339915877288f41b76a1",
		"79791444d1bcb04d73775840aac8a334ec29e2ad589ca7c02c7d9fb56399323e"
		"5151a3064fce278e7e187a2e850f70a7bc9a7022cdc1df00eb49853de655c31a" } },
	{ 1048577, 1024, 32, {
		"6fc4ab8361c961f27d7b9d1ad7bba5fac4dec3f9424a763a15dca8834c5f7672",
		"c0b68d44e6f10de13fcf49cd5399b243584d6c067e97511152f04757953e641b"
		"42bd1115721ed9a907778c286ae3a4ff7a46f60a48d469061cfa62086448b274" } },
};

/* Failures to order */

int failing_malloc;
static int reads_interrupted, writes_interrupted;
static size_t most_at_once = -1;
int read_error;
static int write_error;
int (*fake_ioctl)(unsigned long request, void *arg);
static unsigned long shown_features = -1;	/* bits of AT_HWCAP that are not hidden */

void *__real_malloc(size_t size);
ssize_t __real_pread(int fd, void *data, size_t size, off_t offset);
ssize_t __real_write(int fd, const void *data, size_t size);
unsigned long __real_getauxval(unsigned long type);

void *__wrap_malloc(size_t size)
{
	if (failing_malloc && --failing_malloc == 0)
		return NULL;
	return __real_malloc(size);
}

ssize_t __wrap_pread(int fd, void *data, size_t size, off_t offset)
{
	if (reads_interrupted) {
		reads_interrupted--;
		errno = EINTR;
		return -1;
	}
	if (read_error) {
		errno = read_error;
		return -1;
	}
	return __real_pread(fd, data, size < most_at_once ? size : most_at_once, offset);
}

ssize_t __wrap_write(int fd, const void *data, size_t size)
{
	if (writes_interrupted) {
		writes_interrupted--;
		errno = EINTR;
		return -1;
	}
	if (write_error) {
		errno = write_error;
		return -1;
	}
	return __real_write(fd, data, size < most_at_once ? size : most_at_once);
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	(void)fd;
	if (!fake_ioctl) {
		errno = ENOTTY;	/* as a file system without fs-verity */
		return -1;
	}
	return fake_ioctl(request, arg);
}

unsigned long __wrap_getauxval(unsigned long type)
{
	CHECK(type == AT_HWCAP);
	return __real_getauxval(type) & shown_features;
}

/* Hashes */

u8 *content(size_t size)
{
	u8 *data = malloc(size ? size : 1);	/* no more, so that reading beyond the end is found */

	CHECK(data);
	for (size_t i = 0; i < size; i++)
		data[i] = 7 * i + i / 256;
	return data;
}

static const u8 *salt_bytes(size_t size)
{
	static u8 one[] = { 1 }, many[32];

	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = i;
	return size == 1 ? one : many;
}

static bool is_hex(const u8 *digest, size_t size, const char *hex)
{
	char text[2 * SHA2_DIGEST_MAX + 1];

	for (size_t i = 0; i < size; i++)
		sprintf(text + 2 * i, "%02x", digest[i]);
	return strcmp(text, hex) == 0;
}

/* The digest of data in pieces of step bytes. */
static void digest_stream(int alg, u32 block_size, size_t salt_size, const u8 *data, size_t size, size_t step, u8 *digest)
{
	struct cfs_verity *verity;

	CHECK(cfs_verity_new(alg, block_size, salt_bytes(salt_size), salt_size, &verity) == 0);
	for (size_t done = 0; done < size; done += step)
		CHECK(cfs_verity_update(verity, data + done, size - done < step ? size - done : step) == 0);
	CHECK(cfs_verity_update(verity, data, 0) == 0);
	CHECK(cfs_verity_finish(verity, digest, digest_sizes[alg] - 1) == -EINVAL);
	CHECK(cfs_verity_finish(verity, digest, digest_sizes[alg]) == 0);
	CHECK(cfs_verity_update(verity, data, 0) == -EBUSY);
	CHECK(cfs_verity_finish(verity, digest, digest_sizes[alg]) == -EBUSY);
	cfs_verity_free(verity);
}

/* The same file twice, around one that does not exist. */
static void test_vector_files(int alg, const struct vector *vector, int fd)
{
	int fds[] = { fd, -1, fd };
	size_t digest_size = digest_sizes[alg];
	u8 digests[3 * SHA2_DIGEST_MAX];
	int64_t sizes[3], ctimes[3];
	struct stat info;

	CHECK(cfs_verity_digest_fds(alg, vector->block_size, salt_bytes(vector->salt_size), vector->salt_size, fds, 3,
				    digests, digest_size, sizes, ctimes) == 0);
	CHECK(fstat(fd, &info) == 0);
	for (size_t i = 0; i < 3; i += 2) {
		CHECK(is_hex(digests + i * digest_size, digest_size, vector->digests[alg - 1]));
		CHECK(sizes[i] == (int64_t)vector->size);
		CHECK(ctimes[i] == info.st_ctim.tv_sec * INT64_C(1000000000) + info.st_ctim.tv_nsec);
	}
	CHECK(sizes[1] == -EBADF);
}

static void test_vectors(int alg, int dir_fd)
{
	static const size_t steps[] = { 1000, 4096, 4097, 65536 * 2, -1 };
	size_t digest_size = digest_sizes[alg];
	u8 digest[SHA2_DIGEST_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		const char *want = vectors[i].digests[alg - 1];
		size_t size = vectors[i].size, salt_size = vectors[i].salt_size;
		const u8 *salt = salt_bytes(salt_size);
		u32 block_size = vectors[i].block_size;
		u8 *data = content(size);
		int fd;

		CHECK(cfs_verity_digest(alg, block_size, salt, salt_size, data, size, digest, digest_size) == 0);
		CHECK(is_hex(digest, digest_size, want));
		for (size_t j = 0; j < ARRAY_SIZE(steps); j++) {
			digest_stream(alg, block_size, salt_size, data, size, size < steps[j] ? size + 1 : steps[j], digest);
			CHECK(is_hex(digest, digest_size, want));
		}
		fd = cfs_store_file(dir_fd, data, size);
		CHECK(fd >= 0);
		reads_interrupted = 2;
		most_at_once = i % 2 ? 50001 : (size_t)-1;
		CHECK(cfs_verity_digest_fd(alg, block_size, salt, salt_size, fd, digest, digest_size) == 0);
		most_at_once = -1;
		CHECK(is_hex(digest, digest_size, want));
		test_vector_files(alg, &vectors[i], fd);
		close(fd);
		free(data);
	}
}

/* The implementation gives what the portable one gives, of size bytes that start offset bytes behind an alignment. */
static void test_equal(int alg, const char *name, u32 block_size, size_t salt_size, size_t size, size_t offset)
{
	size_t digest_size = digest_sizes[alg];
	u8 want[SHA2_DIGEST_MAX], got[SHA2_DIGEST_MAX], *data = content(offset + size);
	const u8 *salt = salt_bytes(salt_size);

	CHECK(cfs_hash_choose(alg, "generic") == 0);
	CHECK(cfs_verity_digest(alg, block_size, salt, salt_size, data + offset, size, want, digest_size) == 0);
	CHECK(cfs_hash_choose(alg, name) == 0);
	CHECK(cfs_verity_digest(alg, block_size, salt, salt_size, data + offset, size, got, digest_size) == 0);
	CHECK(memcmp(want, got, digest_size) == 0);
	free(data);
}

/* All counts of blocks that lanes share out, at all alignments. */
static void test_counts(int alg, const char *name)
{
	for (size_t size = 0; size <= 36 * 1024; size += 512)
		test_equal(alg, name, 1024, 0, size, size / 512 % 67);
}

/* Around the blocks of the hashes and of the tree, for all sizes of its blocks. */
static void test_edges(int alg, const char *name)
{
	static const size_t few[] = { 0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129 }, salt_sizes[] = { 0, 1, 32 };

	for (u32 block_size = 1024; block_size <= 65536; block_size *= 2) {
		for (size_t s = 0; s < ARRAY_SIZE(salt_sizes); s++) {
			for (size_t i = 0; i < ARRAY_SIZE(few); i++)
				test_equal(alg, name, block_size, salt_sizes[s], few[i], s);
			for (size_t count = 1; count <= 5; count++)
				for (int more = -1; more <= 1; more++)
					test_equal(alg, name, block_size, salt_sizes[s], count * block_size + more, s);
		}
	}
}

static void test_names(void)
{
	CHECK(!cfs_hash_name(0, 0) && !cfs_hash_name(3, 0) && !cfs_hash_name(-1, 0) && !cfs_hash_name(1, 99));
	CHECK(!cfs_hash_chosen(0) && !cfs_hash_chosen(3));
	CHECK(cfs_hash_choose(3, "generic") == -ENOENT);
	CHECK(cfs_hash_choose(1, "fast") == -ENOENT);
	for (size_t i = 0; i < ARRAY_SIZE(algs); i++)
		CHECK(strcmp(cfs_hash_chosen(algs[i]), cfs_hash_name(algs[i], 0)) == 0);
}

static void test_unusable(void)
{
	static const char *const known[] = { "avx512-shani", "shani", "avx512", "avx2", "arm-sha2", "arm-sha512" };

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		for (size_t a = 0; a < ARRAY_SIZE(algs); a++) {
			bool usable = false;
			int ret;

			for (size_t j = 0; cfs_hash_name(algs[a], j); j++)
				usable |= strcmp(cfs_hash_name(algs[a], j), known[i]) == 0;
			ret = cfs_hash_choose(algs[a], known[i]);
			CHECK(usable ? ret == 0 : ret == -ENOENT || ret == -EOPNOTSUPP);
		}
	}
}

static void test_parameters(void)
{
	static const struct {
		int alg;
		u32 block_size;
		size_t salt_size, digest_size;
	} wrong[] = {
		{ 0, 4096, 0, 32 }, { 3, 4096, 0, 32 }, { -1, 4096, 0, 32 }, { 1, 0, 0, 32 }, { 1, 512, 0, 32 },
		{ 1, 131072, 0, 32 }, { 1, 5000, 0, 32 }, { 1, 4096, 33, 32 }, { 1, 4096, 0, 64 }, { 2, 4096, 0, 32 },
	};
	struct cfs_verity *verity;
	u8 digest[SHA2_DIGEST_MAX], salt[33] = { 0 }, data[5000] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		CHECK(cfs_verity_digest(wrong[i].alg, wrong[i].block_size, salt, wrong[i].salt_size, data, sizeof(data),
					digest, wrong[i].digest_size) == -EINVAL);
	CHECK(cfs_verity_new(3, 4096, NULL, 0, &verity) == -EINVAL);
	CHECK(cfs_verity_digest_fd(3, 4096, NULL, 0, 0, digest, 32) == -EINVAL);
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, 0, digest, 31) == -EINVAL);
	CHECK(cfs_verity_digest_fds(1, 4096, NULL, 0, NULL, 0, digest, 31, NULL, NULL) == -EINVAL);

	failing_malloc = 1;
	CHECK(cfs_verity_new(1, 4096, NULL, 0, &verity) == -ENOMEM);
	failing_malloc = 1;
	CHECK(cfs_verity_digest(1, 4096, NULL, 0, data, sizeof(data), digest, 32) == -ENOMEM);
	failing_malloc = 1;
	CHECK(cfs_verity_digest(1, 4096, NULL, 0, data, 4096, digest, 32) == 0);	/* needs none */
	failing_malloc = 0;
}

/* Files */

static void test_store(int dir_fd)
{
	u8 *data = content(100000), back[100];
	int fd, next;

	writes_interrupted = 2;
	most_at_once = 30001;
	fd = cfs_store_file(dir_fd, data, 100000);
	most_at_once = -1;
	CHECK(fd >= 0);
	CHECK(lseek(fd, 0, SEEK_END) == 100000);
	CHECK(pread(fd, back, sizeof(back), 99900) == 100 && memcmp(back, data + 99900, 100) == 0);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);

	CHECK(cfs_link_fd(fd, dir_fd, "a") == 0);
	CHECK(cfs_link_fd(fd, dir_fd, "a") == -EEXIST);
	CHECK(cfs_rename(dir_fd, "a", dir_fd, "b", 0) == 0);
	CHECK(cfs_rename(dir_fd, "a", dir_fd, "b", 0) == -ENOENT);
	CHECK(cfs_rename(dir_fd, "a", dir_fd, "b", 1) == -ENOENT);
	CHECK(unlinkat(dir_fd, "b", 0) == 0);
	close(fd);

	write_error = ENOSPC;
	CHECK(cfs_store_file(dir_fd, data, 1) == -ENOSPC);
	write_error = 0;
	next = dup(dir_fd);
	CHECK(next == fd);	/* nothing was left open */
	close(next);
	CHECK(cfs_store_file(-1, data, 1) == -EBADF);
	CHECK(cfs_syncfs(dir_fd) == 0 && cfs_syncfs(-1) == -EBADF);
	free(data);
}

/* Modes are those that were asked for, and nothing is opened through a link. */
static void test_modes(int dir_fd)
{
	mode_t former = umask(0777);
	struct stat info;
	char name[300];
	int fd;

	CHECK(cfs_make_directory(dir_fd, "d", 0755) == 0);
	CHECK(cfs_make_directory(dir_fd, "d", 0700) == -EEXIST);
	CHECK(cfs_make_directory(-1, "d", 0755) == -EBADF);
	CHECK(fstatat(dir_fd, "d", &info, 0) == 0 && (info.st_mode & 07777) == 0755);
	fd = cfs_store_file(dir_fd, "", 0);
	CHECK(fd >= 0 && fstat(fd, &info) == 0 && (info.st_mode & 07777) == 0644);
	CHECK(cfs_set_mode(fd, dir_fd, 0600) == 0 && fstat(fd, &info) == 0 && (info.st_mode & 07777) == 0600);
	CHECK(cfs_link_fd(fd, dir_fd, "d/f") == 0);
	close(fd);
	CHECK(cfs_set_mode(-1, dir_fd, 0600) == -EBADF);
	umask(former);

	CHECK(symlinkat("d", dir_fd, "link") == 0 && symlinkat("f", dir_fd, "d/link") == 0);
	fd = cfs_open_below(dir_fd, "d/f", O_RDONLY);
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	close(fd);
	fd = cfs_open_below(dir_fd, "d", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	CHECK(cfs_open_below(dir_fd, "link", O_RDONLY) == -ELOOP);
	CHECK(cfs_open_below(dir_fd, "link/f", O_RDONLY) == -ENOTDIR);
	CHECK(cfs_open_below(dir_fd, "d/link", O_RDONLY) == -ELOOP);
	CHECK(cfs_open_below(dir_fd, "d/none", O_RDONLY) == -ENOENT);
	memset(name, 'x', sizeof(name));
	strcpy(name + 256, "/f");
	CHECK(cfs_open_below(dir_fd, name, O_RDONLY) == -ENAMETOOLONG);
	CHECK(unlinkat(dir_fd, "d/f", 0) == 0 && unlinkat(dir_fd, "d/link", 0) == 0 && unlinkat(dir_fd, "link", 0) == 0);
	CHECK(unlinkat(dir_fd, "d", AT_REMOVEDIR) == 0);
}

static void test_read_error(int dir_fd)
{
	u8 digest[SHA2_DIGEST_MAX], *data = content(100000);
	int fd = cfs_store_file(dir_fd, data, 100000);
	int64_t sizes[1], ctimes[1];

	CHECK(fd >= 0);
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, -1, digest, 32) == -EBADF);
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, dir_fd, digest, 32) == -EISDIR);
	read_error = EIO;
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, dir_fd, digest, 32) == -EIO);
	read_error = 0;
	failing_malloc = 1;
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, dir_fd, digest, 32) == -ENOMEM);
	failing_malloc = 1;
	CHECK(cfs_verity_digest_fds(1, 4096, NULL, 0, &dir_fd, 1, digest, 32, sizes, ctimes) == -ENOMEM);
	failing_malloc = 2;	/* a file larger than the buffer needs a state */
	CHECK(cfs_verity_digest_fd(1, 4096, NULL, 0, fd, digest, 32) == -ENOMEM);
	failing_malloc = 0;
	CHECK(cfs_verity_digest_fds(1, 4096, NULL, 0, &dir_fd, 1, digest, 32, sizes, ctimes) == 0);
	CHECK(sizes[0] == -EISDIR);
	close(fd);
	free(data);
}

static unsigned long last_request;
static u8 last_arg[128];

static int ioctl_fails(unsigned long request, void *arg)
{
	(void)arg;
	last_request = request;
	errno = EOPNOTSUPP;
	return -1;
}

static int ioctl_enables(unsigned long request, void *arg)
{
	last_request = request;
	memcpy(last_arg, arg, sizeof(last_arg));
	return 0;
}

static int ioctl_clones(unsigned long request, void *arg)
{
	last_request = request;
	return (int)(intptr_t)arg == 17 ? 0 : -1;
}

/* A file enabled with SHA-512 whose digest is made of the byte 0x5a. */
static int ioctl_measures(unsigned long request, void *arg)
{
	u16 head[2];

	last_request = request;
	memcpy(head, arg, sizeof(head));
	if (head[1] < 64) {
		errno = EOVERFLOW;
		return -1;
	}
	head[0] = 2;
	head[1] = 64;
	memcpy(arg, head, sizeof(head));
	memset((u8 *)arg + sizeof(head), 0x5a, 64);
	return 0;
}

static void test_ioctls(void)
{
	static const u8 salt[] = { 1, 2, 3 };
	u8 digest[SHA2_DIGEST_MAX + 1] = { 0 };
	u32 words[4];
	u64 salt_pointer;
	int alg = 0;

	fake_ioctl = ioctl_fails;
	CHECK(cfs_reflink(17, 18) == -EOPNOTSUPP && last_request == _IOW(0x94, 9, int));
	CHECK(cfs_enable_verity(3, 1, 4096, NULL, 0) == -EOPNOTSUPP && last_request == 0x40806685);
	CHECK(cfs_measure_verity(3, &alg, digest, 32) == -EOPNOTSUPP && last_request == 0xc0046686);
	CHECK(alg == 0);

	fake_ioctl = ioctl_clones;
	CHECK(cfs_reflink(17, 18) == 0);

	fake_ioctl = ioctl_enables;
	CHECK(cfs_enable_verity(3, 2, 65536, salt, sizeof(salt)) == 0);
	memcpy(words, last_arg, sizeof(words));
	memcpy(&salt_pointer, last_arg + 16, sizeof(salt_pointer));
	CHECK(words[0] == 1 && words[1] == 2 && words[2] == 65536 && words[3] == sizeof(salt));
	CHECK(salt_pointer == (uintptr_t)salt);
	for (size_t i = 24; i < sizeof(last_arg); i++)
		CHECK(last_arg[i] == 0);

	fake_ioctl = ioctl_measures;
	CHECK(cfs_measure_verity(3, &alg, digest, 63) == -EOVERFLOW);
	CHECK(cfs_measure_verity(3, &alg, digest, sizeof(digest)) == 64);
	CHECK(alg == 2 && digest[0] == 0x5a && digest[63] == 0x5a && digest[64] == 0);
}

/*
 * test_cfs [SHA256 SHA512 [FEATURES]]: the implementations that must be in use on this CPU.  With FEATURES no others of it are
 * seen, and only that choice is tested.
 */
int main(int argc, char **argv)
{
	char path[] = "/tmp/cfs-test-XXXXXX";
	int dir_fd;

	if (argc > 3)
		shown_features = strtoul(argv[3], NULL, 0);
	for (size_t a = 0; argc > 2 && a < ARRAY_SIZE(algs); a++)
		CHECK(strcmp(cfs_hash_chosen(algs[a]), argv[1 + a]) == 0);
	test_names();
	if (argc > 3) {
		test_unusable();
		printf("%s and %s chosen: passed\n", argv[1], argv[2]);
		return 0;
	}

	CHECK(mkdtemp(path));
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir_fd >= 0);

	test_parameters();
	for (size_t a = 0; a < ARRAY_SIZE(algs); a++) {
		const char *name;

		for (size_t i = 0; (name = cfs_hash_name(algs[a], i)); i++) {
			CHECK(cfs_hash_choose(algs[a], name) == 0);
			CHECK(strcmp(cfs_hash_chosen(algs[a]), name) == 0);
			test_vectors(algs[a], dir_fd);
			test_counts(algs[a], name);
			test_edges(algs[a], name);
			printf("%s %s: passed\n", algs[a] == 1 ? "sha256" : "sha512", name);
		}
	}
	test_spans();
	test_frames();
	test_mounts(dir_fd);
	test_objects(dir_fd);
	test_sweep(dir_fd);
	test_store_objects(dir_fd);
	test_check(dir_fd);
	test_unusable();
	test_store(dir_fd);
	test_modes(dir_fd);
	test_read_error(dir_fd);
	test_ioctls();
	test_tar_read();
	test_tar_split();
	test_trees();
	close(dir_fd);
	rmdir(path);
	puts("files, parameters, sums, archives: passed");
	return 0;
}
