//! OCI spec, annotations and network namespace to a Machine and the jail it runs in.
