/* What the C tests share; test_cfs.c has the main function. */
#ifndef CFS_TEST_H
#define CFS_TEST_H

#include <stdio.h>
#include <stdlib.h>

#include "cfs.h"

#define CHECK(condition) do {								\
	if (!(condition)) {								\
		fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);	\
		exit(1);								\
	}										\
} while (0)

extern int failing_malloc;	/* the how manyth from now on gives no memory; 0: none */

extern int read_error;	/* the errno of each pread(); 0: they succeed */

/* What ioctl() does; NULL: there is no such request. */
extern int (*fake_ioctl)(unsigned long request, void *arg);

/* Bytes that no zero of padding can stand for; the caller frees them. */
u8 *content(size_t size);

void test_check(int dir_fd);
void test_frames(void);
void test_mounts(int dir_fd);
void test_objects(int dir_fd);
void test_spans(void);
void test_store_objects(int dir_fd);
void test_sweep(int dir_fd);
void test_tar_read(void);
void test_tar_split(void);
void test_trees(void);

#endif
