//! Connections to the pod's `::1`, which a relay carries to the guest.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use super::bench::{Bench, LONG_ENOUGH, SOON, may_run};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const LOCALHOST: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// Sends back all it gets, once it got all.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut all = vec![];
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            });
        }
    });
}

#[test]
fn all_octets_arrive_in_both_directions() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    echo(
        machine
            .guest
            .within(|| TcpListener::bind((ANY, 7)))
            .unwrap(),
    );
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let mut stream = bench
        .pod
        .within(|| TcpStream::connect((LOCALHOST, 7)))
        .unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&sent).unwrap();
    // One direction ends before the other begins.
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = vec![];
    stream.read_to_end(&mut received).unwrap();
    assert!(
        received == sent,
        "{} octets of {}",
        received.len(),
        sent.len()
    );
}

#[test]
fn a_closed_port_is_no_empty_answer() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let _machine = bench.machine6(|_| {});
    let heard = bench.pod.hear(LOCALHOST, 8080);
    assert!(
        matches!(
            heard,
            Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
        ),
        "{heard:?}"
    );
}

#[test]
fn other_addresses_and_datagrams_are_the_pods_own() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    // The relay is not there for others.
    let relay = bench.pod.run("ss -tlnH src [::1]");
    let port: u16 = relay
        .split("[::1]:")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    for (caller, to) in [
        (&bench.peer, super::bench::POD6),
        (&machine.guest, super::bench::GATEWAY6),
    ] {
        assert_eq!(caller.hear(to, port), Err(ErrorKind::ConnectionRefused));
    }
    let server = bench
        .pod
        .within(|| std::net::UdpSocket::bind((LOCALHOST, 8080)))
        .unwrap();
    let client = bench
        .pod
        .within(|| std::net::UdpSocket::bind((LOCALHOST, 0)))
        .unwrap();
    client.send_to(b"x", (LOCALHOST, 8080)).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    server.recv(&mut [0; 16]).unwrap();
}

/// More connections than are carried at the same time wait; they neither fail nor cost the shim.
#[test]
fn a_guest_that_says_nothing_holds_up_no_more_than_its_share() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    let _mute = machine
        .guest
        .within(|| TcpListener::bind((ANY, 81)))
        .unwrap();
    machine.guest.greet(ANY, 8080, "guest");
    let mut held: Vec<_> = (0..100)
        .map(|_| {
            bench
                .pod
                .within(|| TcpStream::connect((LOCALHOST, 81)))
                .unwrap()
        })
        .collect();
    assert!(bench.pod.hear(LOCALHOST, 8080).is_ok());
    held.extend((0..40).map(|_| {
        bench
            .pod
            .within(|| TcpStream::connect((LOCALHOST, 81)))
            .unwrap()
    }));
    thread::sleep(LONG_ENOUGH);
    let waiting = bench
        .pod
        .hear_within(LOCALHOST, 8080, Duration::from_millis(300));
    assert_eq!(waiting, Err(ErrorKind::WouldBlock));
    for stream in held {
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    assert!(bench.pod.hear(LOCALHOST, 8080).is_ok());
}
