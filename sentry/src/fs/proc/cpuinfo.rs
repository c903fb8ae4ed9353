//! `/proc/cpuinfo`, from the CPUID instruction: what the guest could find out itself.

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::fmt::Write as _;

/// A register of a CPUID leaf.
#[derive(Clone, Copy)]
enum Reg {
    A,
    B,
    C,
    D,
}

/// Leaf, subleaf, register, and the flag names of its bits in order (`-` for those not shown).
const FLAGS: &[(u32, u32, Reg, &str)] = &[
    (
        1,
        0,
        Reg::D,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts \
         acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    ),
    (
        0x8000_0001,
        0,
        Reg::D,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm \
         3dnowext 3dnow",
    ),
    (
        1,
        0,
        Reg::C,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid \
         dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand \
         hypervisor",
    ),
    (
        0x8000_0001,
        0,
        Reg::C,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop \
         skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext \
         ptsc perfctr_llc mwaitx",
    ),
    (
        7,
        0,
        Reg::B,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm \
         zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb \
         intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (0xd, 1, Reg::A, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (
        7,
        0,
        Reg::C,
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni \
         avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - \
         movdiri movdir64b enqcmd sgx_lc pks",
    ),
    (
        7,
        0,
        Reg::D,
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect - md_clear - - - \
         serialize - tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8",
    ),
];

fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

fn supported(leaf: u32) -> bool {
    leaf <= cpuid(leaf & 0x8000_0000, 0).eax
}

fn flags() -> String {
    let mut out = String::new();
    for &(leaf, subleaf, reg, names) in FLAGS {
        if !supported(leaf) {
            continue;
        }
        let r = cpuid(leaf, subleaf);
        let bits = match reg {
            Reg::A => r.eax,
            Reg::B => r.ebx,
            Reg::C => r.ecx,
            Reg::D => r.edx,
        };
        for (i, name) in names.split_whitespace().enumerate().take(32) {
            if name != "-" && bits >> i & 1 == 1 {
                out.push_str(name);
                out.push(' ');
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn vendor() -> String {
    let r = cpuid(0, 0);
    let bytes: Vec<u8> = [r.ebx, r.edx, r.ecx].iter().flat_map(|v| v.to_le_bytes()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn brand() -> String {
    if !supported(0x8000_0004) {
        return "unknown".into();
    }
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| cpuid(leaf, 0))
        .flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx])
        .flat_map(|v| v.to_le_bytes())
        .take_while(|&b| b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The file's text for these processors.
pub(super) fn text(cpus: &[u32]) -> String {
    let signature = cpuid(1, 0).eax;
    let base_family = signature >> 8 & 0xf;
    let family =
        if base_family == 0xf { base_family + (signature >> 20 & 0xff) } else { base_family };
    let model =
        (signature >> 4 & 0xf) | if base_family >= 6 { (signature >> 16 & 0xf) << 4 } else { 0 };
    let (vendor, brand, flags) = (vendor(), brand(), flags());
    let sizes = if supported(0x8000_0008) { cpuid(0x8000_0008, 0).eax } else { 0x3028 };
    let clflush = (cpuid(1, 0).ebx >> 8 & 0xff) * 8;
    let count = cpus.len();
    let mut out = String::new();
    // Numbered from zero, whichever of the host's they are.
    for cpu in 0..count {
        let _ = write!(
            out,
            "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {brand}\nstepping\t: {}\nphysical id\t: 0\nsiblings\t: {count}\n\
             core id\t\t: {cpu}\ncpu cores\t: {count}\napicid\t\t: {cpu}\ninitial apicid\t: {cpu}\n\
             fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {flags}\n\
             clflush size\t: {clflush}\ncache_alignment\t: {clflush}\n\
             address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            signature & 0xf,
            cpuid(0, 0).eax,
            sizes & 0xff,
            sizes >> 8 & 0xff,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_x86_64_has_these() {
        let text = super::text(&[0, 3]);
        assert!(text.contains("processor\t: 1\n"));
        assert!(text.contains(" sse2 ") && text.contains(" syscall "));
        assert_eq!(text.matches("vendor_id").count(), 2);
    }
}
