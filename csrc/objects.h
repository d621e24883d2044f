/* Where objects are: objects/xx/rest, the digest in hexadecimal. */
#ifndef OBJECTS_H
#define OBJECTS_H

#include "cfs.h"

#define OBJECT_PATH_SIZE	(2 * SHA2_DIGEST_MAX + sizeof("/"))	/* bytes of xx/rest and its end */

/* Write the path of an object, xx/rest.  Return: where rest begins. */
const char *format_object_path(char *path, const u8 *digest, size_t digest_size);

/* seal.c: does the kernel enforce that digest for the file?  Return: 1, 0 for another one, or a -errno: -ENODATA for none. */
int is_sealed(int fd, int alg, const u8 *digest, size_t digest_size);

#endif
