//! Whether a guest's memory is in huge pages.

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

/// Where the spec says so.
const PATH: &str = "domain.memory.hugepages.pageSize";

words! {
    /// The size of a huge page on amd64.
    PageSize {
        /// 2 MiB.
        TwoMi = "2Mi",
        /// 1 GiB.
        OneGi = "1Gi",
    }
}

impl PageSize {
    /// Bytes of a page.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::TwoMi => 2 << 20,
            Self::OneGi => 1 << 30,
        }
    }

    /// Kubernetes' name of the resource, `hugepages-2Mi`.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::TwoMi => "hugepages-2Mi",
            Self::OneGi => "hugepages-1Gi",
        }
    }
}

/// The pages that the spec asks for, if it does.
pub fn hugepages(spec: &VirtualMachineInstanceSpec) -> Result<Option<PageSize>, FieldError> {
    let memory = spec.domain.memory.as_ref();
    let Some(hugepages) = memory.and_then(|memory| memory.hugepages.as_ref()) else {
        return Ok(None);
    };
    let size = hugepages.page_size.as_deref().unwrap_or_default();
    size.parse()
        .map(Some)
        .map_err(|error| FieldError::new(PATH, error))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_size_is_one_of_two() {
        let read = |memory: Value| {
            let spec = json!({ "domain": { "memory": memory } });
            hugepages(&serde_json::from_value(spec).unwrap())
        };
        let size = |size: &str| read(json!({ "hugepages": { "pageSize": size } }));
        assert_eq!(read(json!({ "guest": "1Gi" })), Ok(None));
        assert_eq!(size("2Mi"), Ok(Some(PageSize::TwoMi)));
        assert_eq!(size("1Gi"), Ok(Some(PageSize::OneGi)));
        for wrong in [size(""), size("3Mi"), read(json!({ "hugepages": {} }))] {
            assert_eq!(wrong.unwrap_err().path, PATH);
        }
        for page in PageSize::ALL {
            assert_eq!(page.resource(), format!("hugepages-{page}"));
        }
    }
}
