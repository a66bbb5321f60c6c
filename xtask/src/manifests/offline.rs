//! What becomes of a manifest by the rules that the product's admission and its controller share,
//! without a cluster.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vm_api::FieldError;
use vm_api::contract::labels;
use vm_api::defaults::{self, Identity};
use vm_api::instancetype::{self, Expansion, InstancetypeSpec, PreferenceSpec};
use vm_api::pool::VirtualMachinePoolSpec;
use vm_api::strict::{self, StrictError};
use vm_api::v1::{
    VirtualMachineInstanceReplicaSetSpec, VirtualMachineInstanceSpec,
    VirtualMachineInstanceTemplateSpec, VirtualMachineSpec,
};
use vm_api::{support, validate};

use super::document::Content;
use super::known::{self, Known, not_served};
use super::library::Library;
use super::preset;
use super::reference::{self, Reference};
use super::verdict::{Field, Kubevirt, Stage, Verdict};

/// Judges documents.
pub(super) struct Judge<'a> {
    library: &'a Library,
    known: Known,
    /// API version and kind of all that is served.
    served: Vec<(String, String)>,
}

/// How many times the processors that a preference requires are tried, for one that spreads them.
const PROCESSORS_TIMES: u32 = 16;

/// What KubeVirt does with what is not offered.
const BEHIND_A_GATE: &str = "refuses it too, unless a feature gate is switched on";

/// A verdict that ends the judgement.
type Judged<T> = Result<T, Verdict>;

impl<'a> Judge<'a> {
    /// Of the documents of a library.
    pub(super) fn new(library: &'a Library, known: Known) -> Self {
        let served = vm_api::crd::documents().into_iter().flat_map(|definition| {
            let spec = definition["spec"].clone();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
            let versions = spec["versions"].as_array().cloned().unwrap_or_default();
            versions
                .into_iter()
                .map(move |version| (format!("{group}/{}", text(&version["name"])), kind.clone()))
        });
        Self {
            library,
            known,
            served: served.collect(),
        }
    }

    /// What becomes of the document at `index`.
    pub(super) fn judge(&self, index: usize) -> Verdict {
        let document = &self.library.documents[index];
        let object = match &document.content {
            Content::Object(object) => object,
            Content::Unreadable { error, .. } => {
                let because = "kubectl cannot read it, whatever is installed";
                return Verdict::refused(
                    format!("it is no YAML: {error}"),
                    Kubevirt::Refuses(because.to_owned()),
                );
            }
        };
        let version = document.text("/apiVersion");
        let kind = document.kind();
        let is_served = |(v, k): &(String, String)| k == kind && v == version;
        if !self.served.iter().any(is_served) {
            return not_served(version, kind);
        }
        match self.object(index, kind, object) {
            Ok(needs) if needs.is_empty() => Verdict::Works,
            Ok(what) => Verdict::Needs { what },
            Err(verdict) => self.with_presets(index, verdict),
        }
    }

    /// What an object needs beside itself.
    fn object(&self, index: usize, kind: &str, object: &Value) -> Judged<Vec<String>> {
        let spec = &object["spec"];
        let reserved = |label: &&&str| object["metadata"]["labels"].get(**label).is_some();
        if let ("VirtualMachineInstance", Some(label)) = (kind, RESERVED.iter().find(reserved)) {
            let field = Field {
                path: "metadata.labels".to_owned(),
                message: format!("{label} is the controller's alone"),
            };
            return Err(Verdict::Refused {
                stage: Stage::Apply,
                fields: vec![field],
                kubevirt: Kubevirt::Refuses("by the same rule".to_owned()),
            });
        }
        let mut needs = match kind {
            "VirtualMachine" => {
                let spec = self.read::<VirtualMachineSpec>(kind, spec)?;
                self.machine(index, kind, "spec", spec)?
            }
            "VirtualMachineInstance" => {
                let spec = self.read(kind, spec)?;
                self.instance(kind, "spec", Stage::Apply, spec)?
            }
            "VirtualMachineInstanceReplicaSet" => {
                let spec = self.read::<VirtualMachineInstanceReplicaSetSpec>(kind, spec)?;
                self.refuse(kind, "spec", Stage::Apply, validate::replica_set(&spec))?;
                unsupported("spec", support::replica_set(&spec))?;
                let template = spec.template.spec.unwrap_or_default();
                self.instance(kind, "spec.template.spec", Stage::Start, template)?
            }
            "VirtualMachinePool" => {
                let spec = self.read::<VirtualMachinePoolSpec>(kind, spec)?;
                self.refuse(kind, "spec", Stage::Apply, validate::pool(&spec))?;
                unsupported("spec", support::pool(&spec))?;
                let machine = spec.virtual_machine_template.spec.unwrap_or_default();
                self.machine(index, kind, "spec.virtualMachineTemplate.spec", machine)?
            }
            "VirtualMachineInstancetype" | "VirtualMachineClusterInstancetype" => {
                let spec = self.read::<InstancetypeSpec>(kind, spec)?;
                self.refuse(
                    kind,
                    "spec",
                    Stage::Apply,
                    instancetype::instancetype(&spec),
                )?;
                self.plain(&spec, None)?
            }
            _ => {
                let spec = self.read::<PreferenceSpec>(kind, spec)?;
                self.refuse(kind, "spec", Stage::Apply, instancetype::preference(&spec))?;
                self.plain(&size_for(&spec), Some(&spec))?
            }
        };
        unsupported("", self.annotations(kind, object))?;
        let companions = self.library.companions(index);
        needs.extend(companions.missing.iter().map(Reference::missing));
        for at in companions.documents {
            let document = &self.library.documents[at];
            let beside = known::beside(document.group(), document.kind());
            needs.extend(beside.map(|product| {
                format!("{product}, for the {} {}", document.kind(), document.name())
            }));
        }
        needs.sort();
        needs.dedup();
        Ok(needs)
    }

    /// Annotations of an instance that do not work; those of templates are their specs' concern.
    fn annotations(&self, kind: &str, object: &Value) -> Vec<FieldError> {
        let given = object["metadata"]["annotations"].clone();
        let given: Option<BTreeMap<_, _>> = serde_json::from_value(given).unwrap_or_default();
        match kind {
            "VirtualMachineInstance" => support::annotations(given.as_ref()),
            _ => Vec::new(),
        }
    }

    /// The verdict about an instance whose memory comes from a preset beside it: KubeVirt
    /// takes it.
    fn with_presets(&self, index: usize, verdict: Verdict) -> Verdict {
        let Verdict::Refused { fields, .. } = &verdict else {
            return verdict;
        };
        let is_memory = |field: &Field| field.path == "spec.domain.memory.guest";
        let instance = &self.library.documents[index];
        let mut presets = self.library.documents.iter().filter(|preset| {
            preset.kind() == "VirtualMachineInstancePreset"
                && preset.place.file == instance.place.file
                && preset.place.block == instance.place.block
        });
        let preset =
            presets.find(|preset| preset::gives_memory(preset.object(), instance.object()));
        match preset {
            Some(preset) if fields.iter().all(is_memory) => Verdict::not_supported(
                "spec.domain.memory",
                format!(
                    "comes from the VirtualMachineInstancePreset {}, a kind that is not there: use an \
                     instance type",
                    preset.name()
                ),
            ),
            _ => verdict,
        }
    }

    /// What a machine needs whose spec is at `path`.
    fn machine(
        &self,
        index: usize,
        kind: &str,
        path: &str,
        mut spec: VirtualMachineSpec,
    ) -> Judged<Vec<String>> {
        defaults::machine(&mut spec, &Identity::default());
        self.refuse(kind, path, Stage::Apply, validate::machine(&spec))?;
        unsupported(path, support::machine(&spec))?;
        let json = json!({ "spec": &spec });
        let find = |kinds: &str| {
            let mut all = reference::references(&json).into_iter();
            let named = all.find(|it| it.kinds[0].ends_with(kinds))?;
            Some(
                self.library
                    .object(index, &named)
                    .map(|it| it["spec"].clone()),
            )
        };
        let (sizes, tastes) = (find("Instancetype"), find("Preference"));
        if matches!(sizes, Some(None)) || matches!(tastes, Some(None)) {
            // Nothing more can be said before it is there.
            return Ok(Vec::new());
        }
        let size = sizes
            .flatten()
            .map(|spec| self.read("VirtualMachineInstancetype", &spec));
        let taste = tastes
            .flatten()
            .map(|spec| self.read("VirtualMachinePreference", &spec));
        let (size, taste) = (size.transpose()?, taste.transpose()?);
        let expansion = Expansion {
            instancetype: size.as_ref(),
            preference: taste.as_ref(),
            memory_is_fallback: false,
        };
        let template = &mut spec.template;
        let errors = instancetype::expand(template, expansion).err();
        self.refuse(kind, path, Stage::Start, errors.unwrap_or_default())?;
        let instance = spec.template.spec.unwrap_or_default();
        self.instance(
            kind,
            &format!("{path}.template.spec"),
            Stage::Start,
            instance,
        )
    }

    /// What an instance needs whose spec is at `path`.
    fn instance(
        &self,
        kind: &str,
        path: &str,
        stage: Stage,
        mut spec: VirtualMachineInstanceSpec,
    ) -> Judged<Vec<String>> {
        defaults::instance(&mut spec);
        self.refuse(kind, path, stage, validate::instance(&spec))?;
        unsupported(path, support::instance(&spec))?;
        if boots_nothing(&spec) {
            return Err(Verdict::not_supported(
                &format!("{path}.volumes"),
                "a machine starts with a disk, a kernel or an interface to boot from; KubeVirt starts \
                 one that finds nothing to boot",
            ));
        }
        Ok(reference::of_the_node(&json!(spec)))
    }

    /// What a plain machine of this size and taste needs.
    fn plain(
        &self,
        size: &InstancetypeSpec,
        taste: Option<&PreferenceSpec>,
    ) -> Judged<Vec<String>> {
        let spec = serde_json::from_value(json!({
            "domain": { "devices": {} },
            "volumes": [{ "name": "root", "containerDisk": { "image": "example.com/disk:1" } }],
        }));
        let mut template = VirtualMachineInstanceTemplateSpec {
            metadata: None,
            spec: spec.ok(),
        };
        let expansion = Expansion {
            instancetype: Some(size),
            preference: taste,
            memory_is_fallback: false,
        };
        let errors = instancetype::expand(&mut template, expansion).err();
        let kind = "VirtualMachine";
        self.refuse(kind, "spec", Stage::Start, errors.unwrap_or_default())?;
        let spec = template.spec.unwrap_or_default();
        self.instance(kind, "spec.template.spec", Stage::Start, spec)
    }

    /// Reads a spec as the API server and the admission do.
    fn read<T: DeserializeOwned>(&self, kind: &str, spec: &Value) -> Judged<T> {
        let read = match strict::read::<T>(&spec.to_string()) {
            Ok(read) => read,
            Err(StrictError::Type(error)) => {
                let fields = vec![error.under("spec").into()];
                let because = "the schema has the same types";
                return Err(Verdict::Refused {
                    stage: Stage::Apply,
                    fields,
                    kubevirt: Kubevirt::Refuses(because.to_owned()),
                });
            }
            Err(StrictError::Syntax(error)) => {
                let why = format!("its JSON cannot be read: {error}");
                return Err(Verdict::Failed { why });
            }
        };
        if read.unknown.is_empty() {
            return Ok(read.value);
        }
        let paths = read.unknown.iter().map(|path| format!("spec.{path}"));
        let paths: Vec<_> = paths.collect();
        let lost = paths.iter().find(|path| self.known.has_field(kind, path));
        if let Some(path) = lost {
            let why = format!("KubeVirt has the field {path}, the schema here does not");
            return Err(Verdict::Failed { why });
        }
        let field = |path| Field {
            path,
            message: "there is no such field".to_owned(),
        };
        Err(Verdict::Refused {
            stage: Stage::Apply,
            fields: paths.into_iter().map(field).collect(),
            kubevirt: Kubevirt::Refuses("it has no such field either".to_owned()),
        })
    }

    /// Refuses if something is wrong.
    fn refuse(&self, kind: &str, path: &str, stage: Stage, errors: Vec<FieldError>) -> Judged<()> {
        if errors.is_empty() {
            return Ok(());
        }
        let is_offered = |error: &FieldError| error.message != validate::NOT_OFFERED;
        if !errors.iter().any(is_offered) {
            let mut fields = under(path, errors);
            for field in &mut fields {
                field.message = format!("{}; KubeVirt {BEHIND_A_GATE}", field.message);
            }
            return Err(Verdict::NotSupported { fields });
        }
        let fields = under(path, errors);
        let kubevirt = self.known.admission(kind, &fields);
        Err(Verdict::Refused {
            stage,
            fields,
            kubevirt,
        })
    }
}

fn unsupported(path: &str, errors: Vec<FieldError>) -> Judged<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let fields = under(path, errors);
    Err(Verdict::NotSupported { fields })
}

fn under(path: &str, errors: Vec<FieldError>) -> Vec<Field> {
    let field = |error: FieldError| match path {
        "" => error.into(),
        path => error.under(path).into(),
    };
    errors.into_iter().map(field).collect()
}

/// Whether a machine has nothing at all to boot from.
fn boots_nothing(spec: &VirtualMachineInstanceSpec) -> bool {
    let firmware = spec.domain.firmware.as_ref();
    let has_kernel = firmware.is_some_and(|firmware| firmware.kernel_boot.is_some());
    let mut interfaces = spec.domain.devices.interfaces.iter();
    spec.volumes.is_empty() && !has_kernel && interfaces.all(|it| it.boot_order.is_none())
}

/// Labels of instances that are the controller's alone, here and in KubeVirt.
const RESERVED: [&str; 3] = [labels::CREATED_BY, labels::NODE_NAME, labels::SCHEDULABLE];

/// An instance type that has what a preference requires.
fn size_for(taste: &PreferenceSpec) -> InstancetypeSpec {
    let required = taste.requirements.clone().unwrap_or_default();
    let processors = required.cpu.map_or(1, |cpu| cpu.guest);
    let memory = required.memory.map(|memory| json!(memory.guest));
    let mut size = InstancetypeSpec::default();
    size.memory.guest = memory
        .and_then(|guest| serde_json::from_value(guest).ok())
        .unwrap_or_else(|| "512Mi".into());
    // Topologies that spread want a number that they divide.
    let fits = |size: &InstancetypeSpec| {
        let expansion = Expansion {
            instancetype: Some(size),
            preference: Some(taste),
            memory_is_fallback: false,
        };
        instancetype::expand(
            &mut VirtualMachineInstanceTemplateSpec::default(),
            expansion,
        )
        .is_ok()
    };
    for times in 1..=PROCESSORS_TIMES {
        size.cpu.guest = processors * times;
        if fits(&size) {
            break;
        }
    }
    size
}
