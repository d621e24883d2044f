/* Where objects are: objects/xx/rest, the digest in hexadecimal. */
#ifndef OBJECTS_H
#define OBJECTS_H

#include "cfs.h"

#include <sys/stat.h>

#define OBJECT_PREFIX		3	/* bytes of xx/ */
#define OBJECT_PATH_SIZE	(2 * SHA2_DIGEST_MAX + sizeof("/"))	/* bytes of xx/rest and its end */

/* Write the path of an object, xx/rest.  Return: where rest begins. */
const char *format_object_path(char *path, const u8 *digest, size_t digest_size);

/*
 * stamps.c: a number for inode, size, mtime and ctime, another one if only one of them is; 0 for what is no file, or was
 * changed at or after the time, in nanoseconds, and may be changed again at that time.
 */
u64 stamp_object(const struct stat *info, int64_t time);

/* seal.c: does the kernel enforce that digest for the file?  Return: 1, 0 for another one, or a -errno: -ENODATA for none. */
int is_sealed(int fd, int alg, const u8 *digest, size_t digest_size);

/* objects.c: call add() with each name in a directory, until it fails.  Return: 0, also if there is none, or a -errno. */
int each_name(int dir_fd, const char *name, int (*add)(void *data, const char *name), void *data);

#endif
