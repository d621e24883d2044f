/* Which instructions this CPU has, and the kernel saves. */
#include "cfs.h"

#define CPU_KNOWN (1u << 31)	/* so that "nothing usable" is remembered too */

#if defined(__x86_64__)
#include <cpuid.h>

/* <immintrin.h> has _xgetbv() only for functions built with -mxsave. */
static u64 read_xcr0(void)
{
	u32 low, high;

	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (u64)high << 32 | low;
}

/*
 * By hand, because __builtin_cpu_supports() says no to everything where the compiler's runtime is zig's, from which
 * our wheels are built.
 */
static u32 detect(void)
{
	const u64 ymm = 0x6, zmm = 0xe6;	/* XCR0: SSE and AVX; and opmask, upper halves, upper registers */
	const u32 avx2 = bit_AVX2 | bit_BMI2;
	const u32 avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_BMI2;
	u32 eax, ebx, ecx, edx, features = 0;
	u64 xcr0 = 0;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
		return 0;
	bool sse41 = ecx & bit_SSE4_1;
	if (ecx & bit_OSXSAVE)
		xcr0 = read_xcr0();
	if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
		return 0;
	if ((ebx & bit_SHA) && sse41)
		features |= CPU_SHANI;
	if ((ebx & avx2) == avx2 && (xcr0 & ymm) == ymm)
		features |= CPU_AVX2;
	if ((ebx & avx512) == avx512 && (xcr0 & zmm) == zmm)
		features |= CPU_AVX512;
	return features;
}
#elif defined(__AARCH64EL__)	/* little-endian: our vectors are */
#include <sys/auxv.h>

static u32 detect(void)
{
	unsigned long has = getauxval(AT_HWCAP);

	return (has & HWCAP_SHA2 ? CPU_ARM_SHA2 : 0) | (has & HWCAP_SHA512 ? CPU_ARM_SHA512 : 0);
}
#else
static u32 detect(void)
{
	return 0;
}
#endif

u32 cpu_features(void)
{
	static u32 cache;	/* cpuid leaves a virtual machine each time, for microseconds */
	u32 features = __atomic_load_n(&cache, __ATOMIC_RELAXED);

	if (!features) {
		features = detect() | CPU_KNOWN;
		__atomic_store_n(&cache, features, __ATOMIC_RELAXED);
	}
	return features;
}
