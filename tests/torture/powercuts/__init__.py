"""Power cuts: what a repository is after the machine has lost its power at a random moment of its work.

    disklog.py    all writes of a disk in their order, with its flushes
    fuse_disk.py  a disk that records them, on this machine: a file of FUSE below a loop device
    steps.py      what is done with a repository meanwhile
    recording.py  does it, step by step, and marks in the log where each begins and ends
    cuts.py       moments of a recording, and which of the writes before had reached the disk
    replay.py     the disk after a cut, and its file system, recovered by its journal
    judge.py      what must hold then
    machines.py   the same in a guest of the kernel lab, whose qemu records, on ext4 with fs-verity; and qemu killed

A disk may keep what it was told to write in a cache, and lose any of it until it is flushed.  So a cut is all writes up
to some moment; or those up to the last flush, and some of the later ones, some of them in part.
"""
