//! Who reaches whom in the cluster: pages asked for from within pods, and by `kubectl port-forward`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::{SOON, TestNamespace, eventually, kubectl_spawn};

/// The addresses of a pod of a dual-stack cluster.
pub struct Addresses {
    /// Its `status.podIP`.
    pub v4: String,
    /// The other one of its `status.podIPs`.
    pub v6: String,
}

impl TestNamespace {
    /// The pod's addresses, once it has them.
    #[track_caller]
    pub fn addresses(&self, pod: &str) -> Addresses {
        eventually(SOON, || {
            let status = self.get("pod", pod)?["status"].clone();
            let address = |index: usize| status["podIPs"][index]["ip"].as_str().map(str::to_owned);
            match (address(0), address(1)) {
                (Some(v4), Some(v6)) if !v4.contains(':') && v6.contains(':') => {
                    Ok(Addresses { v4, v6 })
                }
                _ => Err(status.to_string()),
            }
        })
    }

    /// The body of the page at `host:port`, asked for from within a container.
    ///
    /// With `nc`, because the static busybox's `wget` needs a resolver library that its image lacks.
    pub fn fetch(
        &self,
        pod: &str,
        container: &str,
        host: &str,
        port: u16,
    ) -> Result<String, String> {
        self.fetch_path(pod, container, host, port, "/")
    }

    /// The same of another page than the first.
    pub fn fetch_path(
        &self,
        pod: &str,
        container: &str,
        host: &str,
        port: u16,
        path: &str,
    ) -> Result<String, String> {
        let ask = format!("printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port}");
        let output = self.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", &ask]);
        match output.text().split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(format!("{output:?}")),
        }
    }

    /// Those of `hosts` whose page at port 80 the pod gets within two seconds, all asked at once.
    #[track_caller]
    pub fn reached(&self, pod: &str, hosts: &[&str]) -> BTreeSet<String> {
        let script = format!(
            "for host in {}; do (printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $host 80 \
             | grep -q ' 200 ' && echo $host) & done; wait",
            hosts.join(" ")
        );
        let output = self.kubectl(&["exec", pod, "--", "sh", "-c", &script]);
        let reached = output.expect_success();
        reached.lines().map(str::to_owned).collect()
    }

    /// The page that the pod serves at `port`, by way of the API server, head and body.
    #[track_caller]
    pub fn forwarded(&self, pod: &str, port: u16) -> String {
        let (pod, port) = (format!("pod/{pod}"), format!(":{port}"));
        let mut forward = kubectl_spawn(&["-n", self.name(), "port-forward", &pod, &port]);
        let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
        // "Forwarding from 127.0.0.1:41234 -> 80"
        let line = lines.next().expect("port-forward speaks").expect("text");
        let port = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = format!(
            "127.0.0.1:{}",
            port.unwrap_or_else(|| panic!("no port in {line}"))
        );
        let page = eventually(SOON, || {
            let page = page(&address).map_err(|error| error.to_string())?;
            if page.contains("200 OK") {
                Ok(page)
            } else {
                Err(page)
            }
        });
        forward.kill().expect("kubectl runs");
        forward.wait().expect("kubectl ends");
        page
    }
}

fn page(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let mut page = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.read_to_string(&mut page)?;
    Ok(page)
}
