//! Keys and pointer of a machine, pressed and moved by its monitor.

use serde::Serialize;

use super::{Qmp, QmpError};

/// The command `send-key` with keys by their names, which every version knows.
#[derive(Serialize)]
struct SendKey {
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    r#type: &'static str,
    data: &'static str,
}

impl qapi::Command for SendKey {
    type Ok = qapi::Empty;
    const NAME: &'static str = "send-key";
    const ALLOW_OOB: bool = false;
}

/// The command `input-send-event` with moves of the pointer.
#[derive(Serialize)]
struct InputSendEvent {
    events: Vec<Event>,
}

#[derive(Serialize)]
struct Event {
    r#type: &'static str,
    data: Move,
}

#[derive(Serialize)]
struct Move {
    axis: &'static str,
    value: i64,
}

impl qapi::Command for InputSendEvent {
    type Ok = qapi::Empty;
    const NAME: &'static str = "input-send-event";
    const ALLOW_OOB: bool = false;
}

impl Qmp {
    /// Presses Ctrl, Alt and Delete together. What follows is the guest's matter.
    pub async fn ctrl_alt_delete(&self) -> Result<(), QmpError> {
        let key = |data| Key {
            r#type: "qcode",
            data,
        };
        let keys = ["ctrl", "alt", "delete"].map(key).into();
        self.connection.execute(&SendKey { keys }).await.map(drop)
    }

    /// Moves the pointer a little, and back.
    pub async fn nudge_pointer(&self) -> Result<(), QmpError> {
        for value in [1, -1] {
            let data = Move { axis: "x", value };
            let event = Event {
                r#type: "rel",
                data,
            };
            let events = vec![event];
            self.connection.execute(&InputSendEvent { events }).await?;
        }
        Ok(())
    }
}
