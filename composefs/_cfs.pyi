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
    def cfs_verity_digest_spans(
        self,
        alg: int,
        block_size: int,
        salt: Any,
        salt_size: int,
        data: Any,
        data_size: int,
        spans: Any,
        count: int,
        digests: Any,
        digest_size: int,
    ) -> int: ...
    def cfs_verity_digest_spans_fused(
        self,
        alg: int,
        block_size: int,
        salt: Any,
        salt_size: int,
        data: Any,
        data_size: int,
        spans: Any,
        count: int,
        digests: Any,
        digest_size: int,
        stream: Any,
    ) -> int: ...
    def cfs_verity_update_fused(self, verity: Any, data: Any, size: int, stream: Any) -> int: ...
    def cfs_sha256_init(self, sha256: Any) -> None: ...
    def cfs_sha256_update(self, sha256: Any, data: Any, size: int) -> None: ...
    def cfs_sha256_final(self, sha256: Any, digest: Any) -> None: ...
    def cfs_verity_new(self, alg: int, block_size: int, salt: Any, salt_size: int, verity: Any) -> int: ...
    def cfs_verity_update(self, verity: Any, data: Any, size: int) -> int: ...
    def cfs_verity_finish(self, verity: Any, digest: Any, digest_size: int) -> int: ...
    def cfs_verity_free(self, verity: Any) -> None: ...
    def cfs_hash_name(self, alg: int, index: int) -> Any: ...
    def cfs_hash_chosen(self, alg: int) -> Any: ...
    def cfs_hash_fuses(self, alg: int) -> int: ...
    def cfs_hash_choose(self, alg: int, name: bytes) -> int: ...
    def cfs_link_fd(self, fd: int, dir_fd: int, path: bytes) -> int: ...
    def cfs_reopen_near(self, fd: int, dir_fd: int) -> int: ...
    def cfs_rename(self, old_dir_fd: int, old_path: bytes, new_dir_fd: int, new_path: bytes, flags: int) -> int: ...
    def cfs_reflink(self, source_fd: int, target_fd: int) -> int: ...
    def cfs_enable_verity(self, fd: int, alg: int, block_size: int, salt: Any, salt_size: int) -> int: ...
    def cfs_measure_verity(self, fd: int, alg: Any, digest: Any, capacity: int) -> int: ...
    def cfs_seal(self, fd: int, dir_fd: int, alg: int, digest: Any, digest_size: int) -> int: ...
    def cfs_syncfs(self, fd: int) -> int: ...
    def cfs_store_file(self, dir_fd: int, data: Any, size: int) -> int: ...
    def cfs_set_mode(self, fd: int, dir_fd: int, mode: int) -> int: ...
    def cfs_make_directory(self, dir_fd: int, name: bytes, mode: int) -> int: ...
    def cfs_open_below(self, dir_fd: int, path: bytes, flags: int) -> int: ...
    def cfs_fsopen(self, kind: bytes) -> int: ...
    def cfs_fsconfig(self, fd: int, command: int, key: Any, value: Any, aux: int) -> int: ...
    def cfs_fsmount(self, fd: int, attributes: int) -> int: ...
    def cfs_move_mount(self, fd: int, path: bytes) -> int: ...
    def cfs_clone_mount(self, fd: int) -> int: ...
    def cfs_idmap_mount(self, fd: int, user_namespace_fd: int) -> int: ...
    def cfs_unmount(self, path: bytes, flags: int) -> int: ...
    def cfs_loop_find(self, control_fd: int) -> int: ...
    def cfs_loop_configure(self, loop_fd: int, file_fd: int) -> int: ...
    def cfs_missing_objects(self, dir_fd: int, digests: Any, count: int, digest_size: int, missing: Any) -> int: ...
    def cfs_list_objects(self, dir_fd: int, byte: int, digest_size: int, listing: Any) -> int: ...
    def cfs_free_listing(self, listing: Any) -> None: ...
    def cfs_mark_objects(
        self, digests: Any, count: int, digest_size: int, wanted: Any, wanted_count: int, marks: Any
    ) -> int: ...
    def cfs_sweep_objects(self, dir_fd: int, target_fd: int, digest_size: int, sweep: Any) -> int: ...
    def cfs_sum_bytes(self, data: Any, size: int) -> int: ...
    def cfs_frames_init(self, frames: Any, offset: int) -> None: ...
    def cfs_frames_walk(self, frames: Any, data: Any, size: int, window_max: int) -> int: ...
    def cfs_store_objects(
        self,
        dir_fd: int,
        alg: int,
        data: Any,
        size: int,
        spans: Any,
        count: int,
        digests: Any,
        digest_size: int,
        results: Any,
    ) -> int: ...
    def cfs_tar_split(
        self, alg: int, data: Any, size: int, place: Any, rows: Any, objects: Any, stream: Any
    ) -> int: ...
    def cfs_pack_chunks(
        self, data: Any, size: int, spans: Any, indexes: Any, count: int, chunks: Any, capacity: int
    ) -> int: ...
    def cfs_stamp_objects(
        self, dir_fd: int, digests: Any, count: int, digest_size: int, time: int, stamps: Any
    ) -> int: ...
    def cfs_check_objects(self, alg: int, dir_fd: int, digest_size: int, objects: Any) -> int: ...
    def cfs_merge_chunks(
        self, chunks: Any, size: int, merge: Any, digests: Any, dir_fd: int, out: Any, capacity: int
    ) -> int: ...
    def cfs_tar_read(self, data: Any, size: int, place: Any, digests: Any, rows: Any) -> int: ...
    def cfs_merger_new(self, merger: Any) -> int: ...
    def cfs_merger_apply(self, merger: Any, batch: Any, refused: Any) -> int: ...
    def cfs_merger_find(self, merger: Any, path: bytes, size: int, kind: Any, stat: Any, xattrs: Any) -> int: ...
    def cfs_merger_free(self, merger: Any) -> None: ...
    def cfs_merger_measure(self, merger: Any, sizes: Any) -> None: ...
    def cfs_merger_list(self, merger: Any, merged: Any) -> int: ...
    def cfs_dumper_new(self, merged: Any, xattrs: Any, xattr_ends: Any, set_count: int, dumper: Any) -> int: ...
    def cfs_dumper_write(self, dumper: Any, data: Any, size: int) -> int: ...
    def cfs_dumper_free(self, dumper: Any) -> None: ...
    def cfs_erofs_inodes(
        self, merged: Any, sets: Any, set_count: int, epoch: int, whiteout_count: int, inodes: Any
    ) -> int: ...
    def cfs_erofs_order(self, tree: Any, order: Any) -> int: ...
    def cfs_erofs_group(self, tree: Any, groups: Any) -> int: ...
    def cfs_erofs_place(self, tree: Any, layout: Any) -> int: ...
    def cfs_erofs_pack(self, tree: Any, layout: Any) -> int: ...

lib: _Lib

# Pointers to the structs of C; there are no such classes when the program runs.

class Merge:
    position: int
    inline_left: int
    object: int
    fd: int
    head_size: int

class Listing:
    digests: Any
    count: int
    strays: Any
    strays_size: int

class Sweep:
    done: int
    failed: int
    bytes: int
    newest: int

class Frames:
    offset: int
    end: int
    window: int

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

class ErofsLayout:
    epoch: int
    is_signed: bool
    order: Any
    areas: Any
    area_count: int
    shared_size: int
    oldest: int
    oldest_nanoseconds: int
    inodes_end: int
    block_count: int
    area_data: Any
    area_data_size: int
    image: Any
    image_size: int

class MergedSizes:
    dirent_count: int
    names_size: int
    values_size: int
    stat_count: int

class Merged:
    node_count: int
    directory_count: int
    dirent_count: int
    names_size: int
    values_size: int

class TarObjects:
    digest_size: int
    count: int

class Stream:
    hash: Any
    data: Any
    size: int
