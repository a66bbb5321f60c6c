//! The words of a verb.

use argh::FromArgs;
use std::str::FromStr;

/// A verb with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the verbs' own help says it")]
pub enum Verb {
    Status {
        format: Format,
    },
    Pause {
        format: Format,
    },
    Resume {
        format: Format,
    },
    Reset {
        format: Format,
    },
    Shutdown {
        format: Format,
    },
    /// By its agent, or else by Ctrl-Alt-Del.
    Reboot {
        format: Format,
    },
    Freeze {
        format: Format,
        /// Seconds after which the file systems are thawed again.
        thaw_after: Option<u32>,
    },
    Thaw {
        format: Format,
    },
    Screenshot {
        wake: bool,
    },
    /// The number tells one viewer from others; the caller gives it.
    Vnc {
        number: u64,
    },
    Console,
    Agent {
        command: String,
        arguments: Option<String>,
    },
    Connect {
        protocol: Protocol,
        port: u16,
        /// Datagrams stand behind their lengths.
        framed: bool,
        /// The connection is told of on standard error.
        announce: bool,
    },
}

/// How a verb answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("use text or json".to_owned()),
        }
    }
}

/// What a port of the guest speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err("use tcp or udp".to_owned()),
        }
    }
}

/// Instead of a verb: what to tell the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Help {
    /// It was asked for.
    Wanted(String),
    /// The words are wrong.
    Usage(String),
}

/// Shows what the machine is doing.
#[derive(FromArgs)]
struct Status {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Stops the guest's processors until vm:resume; its memory stays.
#[derive(FromArgs)]
struct Pause {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Lets a paused guest run again.
#[derive(FromArgs)]
struct Resume {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Resets the machine, as its reset button does: the guest is not asked.
#[derive(FromArgs)]
struct Reset {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Asks the guest to power itself off, by the power button and by its agent.
#[derive(FromArgs)]
struct Shutdown {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Asks the guest to start anew: by its agent, or by Ctrl-Alt-Del where there is none.
#[derive(FromArgs)]
struct Reboot {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Has the guest's agent write out its file systems and hold them still, for a snapshot.
#[derive(FromArgs)]
struct Freeze {
    /// seconds after which they go on by themselves
    #[argh(option)]
    thaw_after: Option<u32>,

    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Lets file systems that vm:freeze holds go on.
#[derive(FromArgs)]
struct Thaw {
    /// how to answer: text or json
    #[argh(option, short = 'o', default = "Format::Text")]
    output: Format,
}

/// Writes what the display shows to standard output, as a PNG.
#[derive(FromArgs)]
struct Screenshot {
    /// move the pointer first, so that a screen which went dark is lit
    #[argh(switch)]
    wake: bool,
}

/// Connects standard input and output with the display: a VNC (RFB) stream without password. Use
/// kubectl exec -i.
#[derive(FromArgs)]
struct Vnc {}

/// Connects standard input and output with the first serial console. Use kubectl exec -it.
#[derive(FromArgs)]
struct Console {}

/// Asks the guest's agent and shows its answer as JSON.
#[derive(FromArgs)]
struct Agent {
    /// the agent's command, such as guest-get-osinfo (default: guest-info)
    #[argh(positional, default = "String::from(\"guest-info\")")]
    command: String,

    /// its arguments, a JSON object
    #[argh(option, short = 'a')]
    arguments: Option<String>,
}

/// Connects standard input and output with a port of the guest. Of UDP, each piece that is read is a
/// datagram. Use kubectl exec -i.
#[derive(FromArgs)]
struct Connect {
    /// what the port speaks: tcp or udp
    #[argh(positional)]
    protocol: Protocol,

    /// the port's number
    #[argh(positional)]
    port: u16,

    /// each datagram, both ways, stands behind its length: two bytes, the higher one first (RFC 4571)
    #[argh(switch)]
    framed: bool,

    /// say "connected" on standard error once the guest has taken the connection
    #[argh(switch)]
    announce: bool,
}

/// The verbs with what they do, as the list of them shows it.
const VERBS: [(&str, &str); 13] = [
    ("status", "shows what the machine is doing"),
    ("pause", "stops the guest's processors"),
    ("resume", "lets a paused guest run again"),
    ("reset", "presses the reset button"),
    ("shutdown", "asks the guest to power itself off"),
    ("reboot", "asks the guest to start anew"),
    ("freeze", "holds the guest's file systems still"),
    ("thaw", "lets them go on"),
    ("screenshot", "writes the display as a PNG"),
    ("vnc", "connects with the display (RFB)"),
    ("console", "connects with the serial console"),
    ("agent", "asks the guest's agent"),
    ("connect", "connects with a port of the guest"),
];

/// The verb `name`, which stands behind `vm:`, with the words after it.
///
/// # Errors
/// What to tell the caller instead of doing anything.
pub fn parse(name: &str, words: &[String]) -> Result<Verb, Help> {
    match name {
        "status" => read(name, words).map(|Status { output }| Verb::Status { format: output }),
        "pause" => read(name, words).map(|Pause { output }| Verb::Pause { format: output }),
        "resume" => read(name, words).map(|Resume { output }| Verb::Resume { format: output }),
        "reset" => read(name, words).map(|Reset { output }| Verb::Reset { format: output }),
        "shutdown" => {
            read(name, words).map(|Shutdown { output }| Verb::Shutdown { format: output })
        }
        "reboot" => read(name, words).map(|Reboot { output }| Verb::Reboot { format: output }),
        "freeze" => read(name, words).map(|Freeze { thaw_after, output }| Verb::Freeze {
            format: output,
            thaw_after,
        }),
        "thaw" => read(name, words).map(|Thaw { output }| Verb::Thaw { format: output }),
        "screenshot" => read(name, words).map(|Screenshot { wake }| Verb::Screenshot { wake }),
        "vnc" => read(name, words).map(|Vnc {}| Verb::Vnc { number: 0 }),
        "console" => read(name, words).map(|Console {}| Verb::Console),
        "agent" => {
            read(name, words).map(|Agent { command, arguments }| Verb::Agent { command, arguments })
        }
        "connect" => read(name, words).map(|wanted: Connect| Verb::Connect {
            protocol: wanted.protocol,
            port: wanted.port,
            framed: wanted.framed,
            announce: wanted.announce,
        }),
        "" | "help" | "--help" => Err(Help::Wanted(list())),
        other => Err(Help::Usage(format!(
            "there is no verb vm:{other}\n\n{}",
            list()
        ))),
    }
}

fn read<V: FromArgs>(name: &str, words: &[String]) -> Result<V, Help> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let command = format!("vm:{name}");
    V::from_args(&[&command], &words).map_err(|exit| match exit.status {
        Ok(()) => Help::Wanted(exit.output),
        Err(()) => Help::Usage(exit.output),
    })
}

fn list() -> String {
    let mut text =
        "Verbs of a machine, by kubectl exec POD -- vm:VERB (each has --help):\n".to_owned();
    for (name, what) in VERBS {
        text.push_str(&format!("  vm:{name:<11} {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(line: &str) -> Result<Verb, Help> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        parse(&words[0], &words[1..])
    }

    #[test]
    fn verbs_are_read() {
        let json = Format::Json;
        assert_eq!(of("status -o json"), Ok(Verb::Status { format: json }));
        assert_eq!(of("pause --output json"), Ok(Verb::Pause { format: json }));
        let port = |protocol, port, framed, announce| {
            Ok(Verb::Connect {
                protocol,
                port,
                framed,
                announce,
            })
        };
        assert_eq!(of("connect tcp 22"), port(Protocol::Tcp, 22, false, false));
        assert_eq!(of("connect udp 53"), port(Protocol::Udp, 53, false, false));
        assert_eq!(
            of("connect --announce --framed udp 53"),
            port(Protocol::Udp, 53, true, true)
        );
        let freeze = Verb::Freeze {
            format: Format::Text,
            thaw_after: Some(300),
        };
        assert_eq!(of("freeze --thaw-after 300"), Ok(freeze));
        assert_eq!(of("screenshot --wake"), Ok(Verb::Screenshot { wake: true }));
        let agent = Verb::Agent {
            command: "guest-info".into(),
            arguments: None,
        };
        assert_eq!(of("agent"), Ok(agent));
    }

    #[test]
    fn every_verb_has_help() {
        for (name, _) in VERBS {
            let Err(Help::Wanted(text)) = of(&format!("{name} --help")) else {
                panic!("{name} has no help");
            };
            assert!(text.contains(&format!("Usage: vm:{name}")), "{text}");
        }
        let Err(Help::Wanted(text)) = of("") else {
            panic!("no list");
        };
        assert!(
            VERBS
                .iter()
                .all(|(name, _)| text.contains(&format!("vm:{name}")))
        );
    }

    #[test]
    fn wrong_words_are_told() {
        for (line, told) in [
            ("explode", "no verb vm:explode"),
            ("status -o yaml", "text or json"),
            ("connect tcp", "port"),
            ("connect sctp 1", "tcp or udp"),
            ("connect tcp 65536", "65536"),
            ("freeze --thaw-after -1", "-1"),
            ("pause now", "now"),
        ] {
            let Err(Help::Usage(text)) = of(line) else {
                panic!("{line} is taken");
            };
            assert!(text.contains(told), "{line}: {text}");
        }
    }

    /// Words that a verb could have, and others.
    fn word() -> impl Strategy<Value = String> {
        const KNOWN: &[&str] = &[
            "-o",
            "--output",
            "-a",
            "--arguments",
            "json",
            "text",
            "tcp",
            "udp",
            "22",
            "0",
            "65536",
            "-1",
            "--",
            "-",
            "",
            "--help",
            "help",
            "guest-info",
            "{}",
            "-o=json",
            "\0",
            "\n",
        ];
        prop_oneof![
            3 => prop::sample::select(KNOWN).prop_map(str::to_owned),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn words_are_a_verb_or_help(
            verb in prop_oneof![
                4 => prop::sample::select(&VERBS[..]).prop_map(|(name, _)| name.to_owned()),
                1 => any::<String>(),
            ],
            words in prop_oneof![
                prop::collection::vec(word(), 0..6),
                ("tcp|udp|x", any::<u16>()).prop_map(|(word, port)| vec![word, port.to_string()]),
            ],
        ) {
            let known = VERBS.iter().any(|(name, _)| *name == verb);
            match parse(&verb, &words) {
                Ok(Verb::Connect { protocol, port, .. }) => {
                    prop_assert_eq!(verb, "connect");
                    prop_assert!(words.iter().any(|word| word.parse() == Ok(port)));
                    prop_assert!(words.iter().any(|word| word.parse() == Ok(protocol)));
                }
                Ok(Verb::Agent { command, arguments }) => {
                    let given = |text: &String| words.iter().any(|word| word.ends_with(text.as_str()));
                    prop_assert!(command == "guest-info" || given(&command));
                    prop_assert!(arguments.is_none_or(|text| given(&text)));
                }
                Ok(Verb::Vnc { number }) => prop_assert_eq!(number, 0),
                Ok(_) => prop_assert!(known),
                Err(Help::Wanted(text) | Help::Usage(text)) => prop_assert!(!text.is_empty()),
            }
        }
    }
}
