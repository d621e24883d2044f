# Types of the extension that cffi builds from csrc/; C's own view of them is csrc/cfs_api.h.

from typing import Any

from cffi import FFI

ffi: FFI

class _Lib:
    # Pointers are what ffi.from_buffer() and ffi.new() return; cffi checks them when it is called.
    def cfs_verity_digest(
        self,
        alg: int,
        block_size: int,
        salt: Any,
        salt_size: int,
        data: Any,
        size: int,
        digest: Any,
        digest_size: int,
    ) -> int: ...
    def cfs_verity_digest_fd(
        self, alg: int, block_size: int, salt: Any, salt_size: int, fd: int, digest: Any, digest_size: int
    ) -> int: ...
    def cfs_verity_digest_fds(
        self,
        alg: int,
        block_size: int,
        salt: Any,
        salt_size: int,
        fds: Any,
        count: int,
        digests: Any,
        digest_size: int,
        sizes: Any,
        ctimes: Any,
    ) -> int: ...
    def cfs_verity_new(self, alg: int, block_size: int, salt: Any, salt_size: int, verity: Any) -> int: ...
    def cfs_verity_update(self, verity: Any, data: Any, size: int) -> int: ...
    def cfs_verity_finish(self, verity: Any, digest: Any, digest_size: int) -> int: ...
    def cfs_verity_free(self, verity: Any) -> None: ...
    def cfs_hash_name(self, alg: int, index: int) -> Any: ...
    def cfs_hash_chosen(self, alg: int) -> Any: ...
    def cfs_hash_choose(self, alg: int, name: bytes) -> int: ...
    def cfs_link_fd(self, fd: int, dir_fd: int, path: bytes) -> int: ...
    def cfs_rename(self, old_dir_fd: int, old_path: bytes, new_dir_fd: int, new_path: bytes, flags: int) -> int: ...
    def cfs_reflink(self, source_fd: int, target_fd: int) -> int: ...
    def cfs_enable_verity(self, fd: int, alg: int, block_size: int, salt: Any, salt_size: int) -> int: ...
    def cfs_measure_verity(self, fd: int, alg: Any, digest: Any, capacity: int) -> int: ...
    def cfs_syncfs(self, fd: int) -> int: ...
    def cfs_store_file(self, dir_fd: int, data: Any, size: int) -> int: ...
    def cfs_sum_bytes(self, data: Any, size: int) -> int: ...
    def cfs_tar_read(self, data: Any, size: int, place: Any, digests: Any, rows: Any) -> int: ...
    def cfs_erofs_pack_inodes(
        self,
        image: Any,
        image_size: int,
        inodes: Any,
        inodes_size: int,
        areas: Any,
        areas_size: int,
        area_data: Any,
        area_data_size: int,
        payloads: Any,
        payloads_size: int,
    ) -> int: ...

lib: _Lib

# Pointers to the structs of C; there are no such classes when the program runs.

class TarPlace:
    position: int
    inline_left: int
    offset: int
    padding: int

class TarRows:
    capacity: int
    count: int
    names_size: int
    directories_size: int
    values_size: int
