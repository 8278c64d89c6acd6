//! Rules of port blocks, the same for the file and for requests.

use super::error::Code;
use crate::policy::{Allocation, Blocks, Mapping, PortRange, Prefix};

/// The sizes that a block may have.
pub(crate) const BLOCK_SIZES: (u64, u64) = (64, 32_768);
/// Blocks that a host may have.
pub(crate) const BLOCKS_PER_HOST: (u64, u64) = (1, 16);
/// Unless it is said.
const DEFAULT_PER_HOST: u8 = 4;

/// What an entry says of blocks, as it was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) port_blocks: Option<u16>,
    pub(crate) blocks_per_host: Option<u8>,
    pub(crate) deterministic: bool,
}

/// What the rest of the entry says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) mapping: Mapping,
    pub(crate) ports: PortRange,
    pub(crate) eips: usize,
    pub(crate) source: Prefix,
}

/// A rule that is broken: by which key, and what to do.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) code: Code,
    pub(crate) key: &'static str,
    pub(crate) hint: String,
}

/// What is wished, if it can work.
pub(crate) fn judge(wish: Wish, entry: Entry) -> Result<Allocation, Broken> {
    let broken = |code, key, hint: String| Err(Broken { code, key, hint });
    let Some(size) = wish.port_blocks else {
        let key = match wish {
            Wish { deterministic: true, .. } => "deterministic",
            Wish { blocks_per_host: Some(_), .. } => "blocks_per_host",
            Wish { .. } => return Ok(Allocation::Ports),
        };
        return broken(Code::SnatBlocks, key, "say with port_blocks how many ports a block has".into());
    };
    if entry.mapping != Mapping::EndpointIndependent {
        let hint = "remove port_blocks, or choose endpoint-independent mapping";
        return broken(Code::SnatBlocks, "port_blocks", hint.into());
    }
    let PortRange { first, last } = entry.ports;
    let count = Blocks::of(entry.ports, size).count;
    if count == 0 {
        let hint = format!("the ports {first}/{last} have no room for a block of {size}");
        return broken(Code::SnatBlocks, "port_blocks", hint);
    }
    if !wish.deterministic {
        let per_host = wish.blocks_per_host.unwrap_or(DEFAULT_PER_HOST);
        return Ok(Allocation::Blocks { size, per_host });
    }
    if wish.blocks_per_host.is_some() {
        let hint = "remove the key: each host has one block";
        return broken(Code::SnatBlocks, "blocks_per_host", hint.into());
    }
    let source = entry.source;
    let hosts = 1u64 << (32 - source.len());
    let room = entry.eips as u64 * u64::from(count);
    if hosts > room {
        let each = (u64::from(last) + 1 - u64::from(first)) * entry.eips as u64 / hosts;
        let smaller = match each {
            each if each >= BLOCK_SIZES.0 => format!("make port_blocks no larger than {each}, "),
            _ => String::new(),
        };
        let needed = hosts.div_ceil(u64::from(count));
        let hint = format!(
            "{source} has {hosts} addresses, and {} with {count} blocks of {size} ports each serve {room}: {smaller}give the entry \
             {needed} EIPs, or a smaller source",
            match entry.eips {
                1 => "one EIP".to_owned(),
                eips => format!("{eips} EIPs"),
            },
        );
        return broken(Code::SnatDeterministic, "deterministic", hint);
    }
    Ok(Allocation::Deterministic { size, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let ports = PortRange { first: 1024, last: 65535 };
        Entry { mapping: Mapping::EndpointIndependent, ports, eips: 2, source: Prefix::of(0x0a00_0100, 24) }
    }

    #[test]
    fn what_can_work_is_allowed() {
        let wish = Wish::default();
        assert_eq!(judge(wish, entry()).unwrap(), Allocation::Ports);
        let blocks = Wish { port_blocks: Some(512), ..wish };
        assert_eq!(judge(blocks, entry()).unwrap(), Allocation::Blocks { size: 512, per_host: 4 });
        let two = Wish { blocks_per_host: Some(2), ..blocks };
        assert_eq!(judge(two, entry()).unwrap(), Allocation::Blocks { size: 512, per_host: 2 });
        // 256 addresses on two EIPs of 64512 ports: 504 each.
        let fixed = Wish { port_blocks: Some(504), deterministic: true, ..wish };
        let source = entry().source;
        assert_eq!(judge(fixed, entry()).unwrap(), Allocation::Deterministic { size: 504, source });
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        let wish = |port_blocks, blocks_per_host, deterministic| Wish {
            port_blocks,
            blocks_per_host,
            deterministic,
        };
        let dependent = Entry { mapping: Mapping::EndpointDependent, ..entry() };
        let narrow = Entry { ports: PortRange { first: 1024, last: 1100 }, ..entry() };
        let cases = [
            (wish(None, None, true), entry()),
            (wish(None, Some(2), false), entry()),
            (wish(Some(512), None, false), dependent),
            (wish(Some(512), None, false), narrow),
            (wish(Some(64), Some(1), true), entry()),
            (wish(Some(512), None, true), entry()),
            (wish(Some(512), None, true), Entry { eips: 1, source: Prefix::of(0x0a00_0000, 8), ..entry() }),
        ];
        let said: Vec<_> = cases
            .map(|(wish, entry)| {
                let Broken { code, key, hint } = judge(wish, entry).unwrap_err();
                format!("{code:?} {key}: {hint}")
            })
            .into();
        insta::assert_snapshot!(said.join("\n"));
    }
}
