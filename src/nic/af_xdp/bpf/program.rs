//! The XDP programs, assembled by hand: so few instructions are worth no compiler at build time.

use zerocopy::{Immutable, IntoBytes};

/// One BPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Source register in the high half, destination in the low.
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Register(u8);

const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
const R4: Register = Register(4);
const R5: Register = Register(5);
/// First of the registers that a call leaves alone.
const R6: Register = Register(6);
const R7: Register = Register(7);
const R8: Register = Register(8);
/// The frame pointer.
const R10: Register = Register(10);

/// Width of a load or store.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// A condition of a jump; unsigned.
#[derive(Clone, Copy)]
#[repr(u8)]
enum If {
    Equal = 0x10,
    Greater = 0x20,
    Differs = 0x50,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    NetworkLayer,
    Arp,
    LookUp,
    Pass,
}

/// Fields of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;

/// Everything that arrives on queue *i* goes to the socket in place *i* of the map. While that socket is being opened
/// or closed the frame is dropped: the kernel must not answer in the gateway's stead.
pub(super) fn exclusive(sockets: i32) -> Vec<Instruction> {
    let mut code = Assembler::default();
    code.copy(R6, R1);
    code.redirect(sockets);
    code.finish()
}

/// ARP and IPv4 for addresses that are claimed for the gateway go to the socket, everything else to the kernel.
///
/// The claims are a trie of (VLAN, address) prefixes; the longest one decides. For IPv4 the destination is looked up,
/// for ARP of whatever operation the target protocol address. Frames to a group stay the kernel's, unless they are ARP.
pub(super) fn shared(sockets: i32, claims: i32) -> Vec<Instruction> {
    let mut code = Assembler::default();
    code.copy(R6, R1);
    code.load(Width::Word, R2, R6, DATA);
    code.load(Width::Word, R3, R6, DATA_END);

    // R4: the network layer; R5: the Ethernet type as it lies in memory; R7: the VLAN, 0 without a tag.
    code.advance(R4, R2, 14);
    code.jump_if(If::Greater, R4, R3, Label::Pass);
    code.load(Width::Half, R5, R2, 12);
    code.set(R7, 0);
    code.jump_unless_value(R5, i32::from(0x8100_u16.to_be()), Label::NetworkLayer);
    code.advance(R4, R2, 18);
    code.jump_if(If::Greater, R4, R3, Label::Pass);
    code.load(Width::Half, R7, R2, 14);
    code.host_order_16(R7);
    code.and(R7, 0x0fff);
    code.load(Width::Half, R5, R2, 16);

    code.here(Label::NetworkLayer);
    code.jump_if_value(R5, i32::from(0x0806_u16.to_be()), Label::Arp);
    code.jump_unless_value(R5, i32::from(0x0800_u16.to_be()), Label::Pass);
    code.load(Width::Byte, R0, R2, 0);
    code.and(R0, 1);
    code.jump_unless_value(R0, 0, Label::Pass);
    code.advance(R0, R4, 20);
    code.jump_if(If::Greater, R0, R3, Label::Pass);
    code.load(Width::Word, R8, R4, 16);
    code.jump(Label::LookUp);

    code.here(Label::Arp);
    code.advance(R0, R4, 28);
    code.jump_if(If::Greater, R0, R3, Label::Pass);
    code.load(Width::Half, R0, R4, 4);
    code.jump_unless_value(R0, i32::from(u16::from_ne_bytes([6, 4])), Label::Pass);
    code.load(Width::Word, R8, R4, 24);

    // The key on the stack, as `claims::Key` lays it out: length in bits, VLAN in network order, address.
    code.here(Label::LookUp);
    code.network_order_32(R7);
    code.set(R0, 64);
    code.store(R10, -16, R0);
    code.store(R10, -12, R7);
    code.store(R10, -8, R8);
    code.map(R1, claims);
    code.advance(R2, R10, -16);
    code.call(MAP_LOOKUP_ELEM);
    code.jump_if_value(R0, 0, Label::Pass);
    code.load(Width::Word, R0, R0, 0);
    code.jump_if_value(R0, 0, Label::Pass);
    code.redirect(sockets);

    code.here(Label::Pass);
    code.set(R0, XDP_PASS);
    code.exit();
    code.finish()
}

/// Collects instructions and resolves jumps, all of which go forward.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    open: Vec<(usize, Label)>,
}

impl Assembler {
    fn emit(&mut self, code: u8, destination: Register, source: Register, offset: i16, immediate: i32) {
        let registers = source.0 << 4 | destination.0;
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    fn copy(&mut self, to: Register, from: Register) {
        self.emit(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: Register, value: i32) {
        self.emit(0xb7, to, R0, 0, value);
    }

    fn and(&mut self, register: Register, value: i32) {
        self.emit(0x57, register, R0, 0, value);
    }

    /// `to = from + distance`
    fn advance(&mut self, to: Register, from: Register, distance: i32) {
        self.copy(to, from);
        self.emit(0x07, to, R0, 0, distance);
    }

    fn host_order_16(&mut self, register: Register) {
        self.emit(0xdc, register, R0, 0, 16);
    }

    fn network_order_32(&mut self, register: Register) {
        self.emit(0xdc, register, R0, 0, 32);
    }

    fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.emit(0x61 | width as u8, to, from, offset, 0);
    }

    fn store(&mut self, to: Register, offset: i16, from: Register) {
        self.emit(0x63, to, from, offset, 0);
    }

    /// Loads a map by its descriptor: the one instruction that takes two places.
    fn map(&mut self, to: Register, descriptor: i32) {
        const PSEUDO_MAP: Register = Register(1);
        self.emit(0x18, to, PSEUDO_MAP, 0, descriptor);
        self.emit(0, R0, R0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.emit(0x85, R0, R0, 0, helper);
    }

    fn exit(&mut self) {
        self.emit(0x95, R0, R0, 0, 0);
    }

    /// Ends the program by redirecting to the socket of the queue on which the frame arrived; R6 is the context.
    fn redirect(&mut self, sockets: i32) {
        self.load(Width::Word, R2, R6, RX_QUEUE_INDEX);
        self.map(R1, sockets);
        self.set(R3, XDP_DROP);
        self.call(REDIRECT_MAP);
        self.exit();
    }

    fn jump(&mut self, label: Label) {
        self.open.push((self.code.len(), label));
        self.emit(0x05, R0, R0, 0, 0);
    }

    fn jump_if(&mut self, condition: If, left: Register, right: Register, label: Label) {
        self.open.push((self.code.len(), label));
        self.emit(0x0d | condition as u8, left, right, 0, 0);
    }

    fn jump_if_value(&mut self, register: Register, value: i32, label: Label) {
        self.open.push((self.code.len(), label));
        self.emit(0x05 | If::Equal as u8, register, R0, 0, value);
    }

    fn jump_unless_value(&mut self, register: Register, value: i32, label: Label) {
        self.open.push((self.code.len(), label));
        self.emit(0x05 | If::Differs as u8, register, R0, 0, value);
    }

    /// The jumps to `label` so far go here.
    fn here(&mut self, label: Label) {
        let target = self.code.len();
        for (from, _) in self.open.extract_if(.., |(_, to)| *to == label) {
            self.code[from].offset = i16::try_from(target - from - 1).unwrap_or(i16::MAX);
        }
    }

    fn finish(self) -> Vec<Instruction> {
        debug_assert!(self.open.is_empty(), "a jump has no target");
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exclusive_program_is_seven_instructions() {
        let code = exclusive(5);
        assert_eq!(code.len(), 7);
        assert_eq!(code[2].immediate, 5);
        assert_eq!(code.last().unwrap().code, 0x95);
    }

    #[test]
    fn every_jump_of_the_shared_program_lands_inside_it() {
        let code = shared(5, 6);
        for (at, instruction) in code.iter().enumerate() {
            let is_jump = instruction.code & 7 == 5 && !matches!(instruction.code, 0x85 | 0x95);
            if is_jump {
                let target = at + 1 + usize::try_from(instruction.offset).unwrap();
                assert!(target > at && target < code.len(), "jump at {at}");
            }
        }
    }
}
