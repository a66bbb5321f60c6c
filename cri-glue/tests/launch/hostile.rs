//! Bad and hostile input: each gets one sentence that names it, and leaves nothing.
