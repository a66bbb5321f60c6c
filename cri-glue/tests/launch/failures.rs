//! Launches that fail at each of their steps, and leave nothing.
