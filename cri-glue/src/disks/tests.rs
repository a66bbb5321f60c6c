//! Disks from real directories, and from hostile ones.
