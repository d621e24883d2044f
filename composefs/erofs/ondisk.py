"""What stands where in a composefs image: the layouts, each described once.

All integers are little-endian.  Source: the kernel's fs/erofs/erofs_fs.h; composefs' header and xattrs are those of
libcomposefs/lcfs-erofs.h and doc/erofs.md of composefs-rs.

    0                  composefs header, zero padded
    1024               EROFS superblock
    1152               inodes: header, xattrs, inline tail; each at a multiple of 32 bytes, which is its nid
    inodes' end        shared xattrs, each at a multiple of 4 bytes
    next block         data blocks
"""

from __future__ import annotations

import stat
from struct import Struct

BLOCK = 4096  # bytes
SLOT = 32  # bytes; nids count them
SUPERBLOCK_OFFSET = 1024
INODES_OFFSET = 1152

# magic, header version, flags, composefs version
HEADER = Struct("<IIII16x")
assert HEADER.size == 32
HEADER_MAGIC = 0xD078629A
HEADER_VERSION = 1
FLAG_HAS_ACL = 1

# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time, build_time_nsec, blocks,
# meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat, available_compr_algs, extra_devices,
# devt_slotoff, dirblkbits, xattr_prefix_count, xattr_prefix_start, packed_nid, xattr_filter_reserved
SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
assert SUPERBLOCK.size == 128
EROFS_MAGIC = 0xE0F5E1E2
FEATURE_COMPAT_MTIME = 2
FEATURE_COMPAT_XATTR_FILTER = 4
FEATURE_INCOMPAT_CHUNKED_FILE = 4

# i_format, i_xattr_icount, i_mode, i_nlink, i_size, i_u, i_ino, uid, gid
COMPACT_INODE = Struct("<HHHHI4xIIHH4x")
assert COMPACT_INODE.size == 32
# i_format, i_xattr_icount, i_mode, i_size, i_u, i_ino, uid, gid, mtime, mtime_nsec, i_nlink
EXTENDED_INODE = Struct("<HHH2xQIIIIqII16x")
assert EXTENDED_INODE.size == 64
FORMAT_EXTENDED = 1  # of i_format; the layouts below are there, too
LAYOUT_MASK = 0xE
LAYOUT_FLAT_PLAIN = 0  # data in blocks only
LAYOUT_FLAT_INLINE = 4  # the last part of the data follows the inode
LAYOUT_CHUNKED = 8  # chunk addresses follow the inode
TAIL_MAX = BLOCK // 2  # bytes of data that follow the inode, in epoch 1; a longer rest becomes a block

# name filter, number of shared xattrs; their references and the local ones follow
XATTR_HEADER = Struct("<IB7x")
assert XATTR_HEADER.size == 12
# length of the suffix, index of the prefix, length of the value; suffix, value and padding to 4 bytes follow
XATTR_ENTRY = Struct("<BBH")
assert XATTR_ENTRY.size == 4
XATTR_UNIT = 4  # bytes; entries begin at multiples of it, and references and i_xattr_icount count them
XATTR_FILTER_SEED = 0x25BBE08F
XATTR_PREFIXES = (  # by index; names with none of them are whole at index 0
    b"",
    b"user.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.",
    b"lustre.",
    b"security.",
)
ACL_PREFIXES = (2, 3)

# nid, offset of the name in its block, type
DIRENT = Struct("<QHBx")
assert DIRENT.size == 12
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

NULL_CHUNK = b"\xff\xff\xff\xff"  # the address of a chunk that is not in the image
CHUNK_BITS_MAX = 43  # log2 of the largest chunk in bytes: 31 over that of a block

OVERLAY = b"trusted.overlay."  # what overlayfs acts upon
ESCAPED = b"trusted.overlay.overlay."  # and what it shows as such
METACOPY = OVERLAY + b"metacopy"
REDIRECT = OVERLAY + b"redirect"
OPAQUE = OVERLAY + b"opaque"
# What stands for a whiteout of the tree, in it and in its directory.
WHITEOUT_XATTRS = (ESCAPED + b"whiteout", b"user.overlay.whiteout")
WHITEOUTS_XATTRS = (ESCAPED + b"whiteouts", b"user.overlay.whiteouts")
OPAQUE_XATTRS = (ESCAPED + b"opaque", b"user.overlay.opaque")

# version, length of the whole, flags, algorithm; the digest follows
METACOPY_VALUE = Struct("<BBBB")
KERNEL_IDS = {32: 1, 64: 2}  # of the algorithms, by size of their digests: sha256, sha512

STUB_NAMES = tuple(b"%02x" % number for number in range(256))  # whiteouts in the root that hide the object directories
