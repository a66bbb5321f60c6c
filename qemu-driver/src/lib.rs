//! Machine to running guest: QEMU arguments, QMP, guest agent.
