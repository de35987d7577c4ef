//! Which start of an edge process a link comes from, and which of its links it is: `tunnel-instance: <uuid>.<n>`.

use alloc::string::String;
use core::fmt;
use rand_core::Rng;

/// An edge process's uuid, fresh at each start, and the number of a link, which rises with each that it makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    uuid: String,
    link: u64,
}

impl Instance {
    /// A process that starts.
    pub(crate) fn random(rng: &mut impl Rng) -> Instance {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Instance {
            uuid: crate::name::Topic::from_random(bytes).as_str().into(),
            link: 0,
        }
    }

    /// The same process's next link.
    pub(crate) fn next(&self) -> Instance {
        Instance {
            uuid: self.uuid.clone(),
            link: self.link + 1,
        }
    }

    /// Reads the metadata's value; `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Instance> {
        let (uuid, link) = text.rsplit_once('.')?;
        let proper =
            (1..=64).contains(&uuid.len()) && uuid.bytes().all(|byte| byte.is_ascii_graphic());
        Some(Instance {
            uuid: proper.then(|| uuid.into())?,
            link: link.parse().ok()?,
        })
    }

    /// Whether both are links of one process.
    pub fn is_same_process(&self, other: &Instance) -> bool {
        self.uuid == other.uuid
    }

    /// Which of its process's links it is, from 1.
    pub fn link(&self) -> u64 {
        self.link
    }

    /// The process's uuid.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.uuid, self.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn is_read_as_it_is_written() {
        let instance = Instance::parse("0c7e-11.42").expect("well-formed");
        assert_eq!((instance.uuid(), instance.link()), ("0c7e-11", 42));
        assert_eq!(instance.to_string(), "0c7e-11.42");
        for bad in [
            "",
            "x",
            ".1",
            "x.",
            "x.-1",
            "a b.1",
            "x.99999999999999999999",
        ] {
            assert_eq!(Instance::parse(bad), None, "{bad}");
        }
    }
}
