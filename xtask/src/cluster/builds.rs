//! Builds Kubernetes, containerd and others from their Go modules. Relies on Go and its module
//! proxy; promises programs of exactly the versions named here, kept in the cache by version.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::command;
use crate::progress::Step;

/// The Go that the cluster's programs are built as for; a newer one does it too.
const GO: &str = "1.25";

const KUBERNETES: Build = Build {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    version: "v1.34.4",
    go: GO,
    staging_version: Some("v0.34.4"),
    cgo: false,
    tags: "",
    // Without these, everything calls itself v0.0.0.
    ldflags: "-X k8s.io/component-base/version.gitVersion=v1.34.4 \
              -X k8s.io/component-base/version.gitMajor=1 \
              -X k8s.io/component-base/version.gitMinor=34",
    programs: &[
        "cmd/kube-apiserver",
        "cmd/kube-controller-manager",
        "cmd/kube-proxy",
        "cmd/kube-scheduler",
        "cmd/kubectl",
        "cmd/kubelet",
    ],
    main: "",
};

const CONTAINERD: Build = Build {
    name: "containerd",
    module: "github.com/containerd/containerd/v2",
    version: "v2.4.2",
    go: GO,
    staging_version: None,
    cgo: false,
    // Their headers are not there, and no node of the bench uses them.
    tags: "no_btrfs no_zfs",
    ldflags: "-X github.com/containerd/containerd/v2/version.Version=v2.4.2",
    programs: &["cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"],
    main: "",
};

const RUNC: Build = Build {
    name: "runc",
    module: "github.com/opencontainers/runc",
    version: "v1.5.2",
    go: GO,
    staging_version: None,
    cgo: true,
    tags: "seccomp",
    ldflags: "-X main.version=1.5.2",
    // The module itself.
    programs: &[""],
    main: "",
};

const COREDNS: Build = Build {
    name: "coredns",
    module: "github.com/coredns/coredns",
    version: "v1.13.1",
    go: GO,
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "",
    programs: &[],
    // Its own main program takes in the plugins for the clouds too, which take a minute to build.
    main: r#"package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() { coremain.Run() }
"#,
};

/// Serves `kubectl top` from what the kubelets tell.
const METRICS_SERVER: Build = Build {
    name: "metrics-server",
    module: "sigs.k8s.io/metrics-server",
    version: "v0.9.0",
    // Its own wish.
    go: "1.26.4",
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "",
    programs: &["cmd/metrics-server"],
    main: "",
};

/// Plays nodes and kubelets, for measurements of the controller alone.
const KWOK: Build = Build {
    name: "kwok",
    module: "sigs.k8s.io/kwok",
    // Newer ones ask for a newer Go.
    version: "v0.7.0",
    go: GO,
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "",
    programs: &["cmd/kwok"],
    main: "",
};

/// What a gRPC probe asks, for a guest that has none: `grpc-health ADDRESS`.
const GRPC_HEALTH: Build = Build {
    name: "grpc-health",
    module: "google.golang.org/grpc",
    // Kubernetes' own.
    version: "v1.72.1",
    go: GO,
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "",
    programs: &[],
    main: r#"package main

import (
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	log.Fatal(server.Serve(listener))
}
"#,
};

/// Installs the chart, as a user does.
const HELM: Build = Build {
    name: "helm",
    module: "helm.sh/helm/v3",
    version: "v3.22.0",
    // Its own wish.
    go: "1.26.0",
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "-X helm.sh/helm/v3/internal/version.version=v3.22.0",
    programs: &["cmd/helm"],
    main: "",
};

/// Reads the chart's rules and the queries of its dashboard as Prometheus does: `prometheus-rules RULES
/// DASHBOARD`. Its own `promtool` takes in all of its server, which takes minutes to build.
const PROMETHEUS_RULES: Build = Build {
    name: "prometheus-rules",
    module: "github.com/prometheus/prometheus",
    version: "v0.316.0",
    // Its own wish.
    go: "1.26.7",
    staging_version: None,
    cgo: false,
    tags: "",
    ldflags: "",
    programs: &[],
    main: r#"package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

type panel struct {
	Title   string
	Targets []struct{ Expr string }
	Panels  []panel
}

// What Grafana puts in the place of its variables.
var variables = strings.NewReplacer("$namespace", ".*")

func main() {
	failed := false
	fail := func(what string, err error) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		failed = true
	}
	p := parser.NewParser(parser.Options{})
	_, errs := rulefmt.ParseFile(os.Args[1], false, model.UTF8Validation, p, slog.Default())
	for _, err := range errs {
		fail(os.Args[1], err)
	}
	var dashboard struct{ Panels []panel }
	text, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil {
		fail(os.Args[2], err)
	}
	queries := 0
	var look func(panels []panel)
	look = func(panels []panel) {
		for _, panel := range panels {
			for _, target := range panel.Targets {
				queries++
				if _, err := p.ParseExpr(variables.Replace(target.Expr)); err != nil {
					fail(panel.Title, err)
				}
			}
			look(panel.Panels)
		}
	}
	look(dashboard.Panels)
	if queries == 0 {
		fail(os.Args[2], fmt.Errorf("it has no query"))
	}
	if failed {
		os.Exit(1)
	}
}
"#,
};

/// Directories of the finished programs.
pub(crate) struct Programs {
    /// `kube-apiserver`, `kubelet`, `kubectl` and the others.
    pub(crate) kubernetes: PathBuf,
    /// `containerd`, `containerd-shim-runc-v2`, `ctr`.
    pub(crate) containerd: PathBuf,
    /// `runc`.
    pub(crate) runc: PathBuf,
    /// `coredns`.
    pub(crate) coredns: PathBuf,
}

/// Builds what the cache does not hold yet: about eight minutes on two cores the first time.
///
/// # Errors
/// When Go is missing or a build fails: the end of the compiler's output.
pub(crate) fn ensure() -> Result<Programs> {
    Ok(Programs {
        containerd: CONTAINERD.ensure()?,
        runc: RUNC.ensure()?,
        coredns: COREDNS.ensure()?,
        kubernetes: KUBERNETES.ensure()?,
    })
}

/// Directories of what only the end-to-end tests need.
pub(crate) struct Extras {
    /// `metrics-server`.
    pub(crate) metrics_server: PathBuf,
    /// `grpc-health`.
    pub(crate) grpc_health: PathBuf,
}

/// Directories of what only the tests of the chart need.
pub(crate) struct ChartTools {
    /// `helm`.
    pub(crate) helm: PathBuf,
    /// `kubectl` and others.
    pub(crate) kubernetes: PathBuf,
    /// `prometheus-rules`.
    pub(crate) prometheus_rules: PathBuf,
}

/// The same for the tests of the chart.
///
/// # Errors
/// As of [`ensure`].
pub(crate) fn ensure_chart_tools() -> Result<ChartTools> {
    Ok(ChartTools {
        helm: HELM.ensure()?,
        kubernetes: KUBERNETES.ensure()?,
        prometheus_rules: PROMETHEUS_RULES.ensure()?,
    })
}

/// The same for the end-to-end tests' own programs: two more minutes.
///
/// # Errors
/// As of [`ensure`].
pub(crate) fn ensure_extras() -> Result<Extras> {
    Ok(Extras {
        metrics_server: METRICS_SERVER.ensure()?,
        grpc_health: GRPC_HEALTH.ensure()?,
    })
}

/// Directory of `kube-apiserver`, `kubectl` and the others of Kubernetes, built if need be.
///
/// # Errors
/// As of [`ensure`].
pub(crate) fn ensure_kubernetes() -> Result<PathBuf> {
    KUBERNETES.ensure()
}

/// Directory of `kwok`, built if need be.
///
/// # Errors
/// As of [`ensure`].
pub(crate) fn ensure_kwok() -> Result<PathBuf> {
    KWOK.ensure()
}

struct Build {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    /// The oldest Go that may build it.
    go: &'static str,
    /// Version of the modules that the main one replaces by directories of its own repository.
    staging_version: Option<&'static str>,
    /// Whether a part of it is C.
    cgo: bool,
    tags: &'static str,
    ldflags: &'static str,
    /// Packages below the module.
    programs: &'static [&'static str],
    /// Source of a program of our own with the build's name, if there is one.
    main: &'static str,
}

impl Build {
    fn ensure(&self) -> Result<PathBuf> {
        let mut name = format!("{}-{}", self.name, self.version);
        if !self.main.is_empty() {
            name = format!("{name}-{}", cache::Key::default().add(self.main).name());
        }
        let finished = cache::dir("go")?.join(name);
        if finished.is_dir() {
            return Ok(finished);
        }
        command::run(&mut command::words("go version")).with_context(|| {
            format!(
                "building {} needs Go {} or newer on the PATH",
                self.name, self.go
            )
        })?;
        let work = finished.with_extension("work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir(&work)?;
        let step = Step::begin(format!("Building {} {}", self.name, self.version));
        fs::write(work.join("go.mod"), self.go_mod()?)?;
        let packages = self.packages();
        if !self.main.is_empty() {
            fs::create_dir(work.join(self.name))?;
            fs::write(work.join(self.name).join("main.go"), self.main)?;
        }
        let out = work.join("bin");
        fs::create_dir(&out)?;
        let all = command::output(
            self.go(&work)
                .args(["list", "-mod=mod", "-deps"])
                .args(&packages),
        )
        .context("download the modules")?;
        step.total(all.lines().count() as u64);
        compile(
            self.go(&work)
                .args(["build", "-mod=mod", "-v", "-trimpath", "-tags", self.tags])
                .args(["-ldflags", &format!("-s -w {}", self.ldflags)])
                .arg("-o")
                .arg(&out)
                .args(&packages),
            &step,
        )
        .with_context(|| format!("build {} {}", self.name, self.version))?;
        // The rename is what makes it finished: an interrupted build leaves nothing behind.
        fs::rename(&out, &finished).with_context(|| format!("keep {}", finished.display()))?;
        fs::remove_dir_all(&work)?;
        step.done();
        Ok(finished)
    }

    fn go(&self, dir: &Path) -> Command {
        let mut command = Command::new("go");
        let cgo = if self.cgo { "1" } else { "0" };
        command.current_dir(dir).env("CGO_ENABLED", cgo);
        command
    }

    fn packages(&self) -> Vec<String> {
        let package = |program: &&str| {
            let path = format!("{}/{program}", self.module);
            path.trim_end_matches('/').to_owned()
        };
        let own = (!self.main.is_empty()).then(|| format!("./{}", self.name));
        self.programs.iter().map(package).chain(own).collect()
    }

    fn go_mod(&self) -> Result<String> {
        let (module, version, go) = (self.module, self.version, self.go);
        let mut text = format!("module bench\n\ngo {go}\n\nrequire {module} {version}\n");
        if let Some(staging_version) = self.staging_version {
            let download = command::output(
                Command::new("go")
                    .current_dir("/")
                    .args(["mod", "download", "-json"])
                    .arg(format!("{module}@{version}")),
            )
            .with_context(|| format!("Go {go} or newer is needed to build Kubernetes"))?;
            let download: serde_json::Value = serde_json::from_str(&download)?;
            let path = download["GoMod"]
                .as_str()
                .with_context(|| format!("{module}@{version} has no go.mod"))?;
            text += &staging_replacements(&fs::read_to_string(path)?, staging_version);
        }
        Ok(text)
    }
}

/// `replace` lines that point the modules which `go_mod` takes from its own repository to the ones
/// published under `version`. A module that is required does not bring its own along.
fn staging_replacements(go_mod: &str, version: &str) -> String {
    go_mod
        .lines()
        .filter_map(|line| {
            let (module, target) = line
                .trim()
                .trim_start_matches("replace ")
                .split_once(" => ")?;
            target.starts_with("./staging/").then_some(module)
        })
        .map(|module| format!("replace {module} => {module} {version}\n"))
        .collect()
}

/// Runs a `go build -v`, which names each package as it is compiled.
fn compile(command: &mut Command, step: &Step) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start go")?;
    let mut last = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            step.part(&line);
            if last.len() == 20 {
                last.remove(0);
            }
            last.push(line);
        }
    }
    if !child.wait()?.success() {
        bail!(
            "go build failed; the end of its output:\n{}",
            last.join("\n")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_of_the_own_repository_are_replaced() {
        let go_mod = "module k8s.io/kubernetes\n\
                      require (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2025\n)\n\
                      replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\
                      \tother => ../elsewhere\n)\n\
                      replace k8s.io/kubelet => ./staging/src/k8s.io/kubelet\n";
        assert_eq!(
            staging_replacements(go_mod, "v0.34.4"),
            "replace k8s.io/api => k8s.io/api v0.34.4\n\
             replace k8s.io/kubelet => k8s.io/kubelet v0.34.4\n"
        );
    }

    #[test]
    fn a_program_may_be_our_own() {
        assert_eq!(COREDNS.packages(), ["./coredns"]);
        assert!(CONTAINERD.packages()[0].ends_with("/v2/cmd/containerd"));
    }
}
