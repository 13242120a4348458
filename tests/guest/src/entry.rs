//! From the first instruction to Rust code in ring 3, and the traps that lead back.
//!
//! ```text
//! PVH entry (32-bit, paging off) -> 2 MiB pages, long mode -> descriptor tables -> iretq -> ring 3
//! ```
//!
//! Why ring 3: a paravirtual KVM without hardware support emulates ring 0 one instruction at a time
//! (about a microsecond each), but runs ring 3 natively. So ring 0 is kept to some fifty
//! instructions, every table is laid out by the assembler instead of being filled at run time, and
//! all work is done in ring 3. What ring 3 needs from ring 0:
//!
//! * ports: the task segment has an I/O permission bitmap that allows all of them (IOPL would not
//!   do: it is lost as soon as ring 3 runs natively);
//! * `hlt` and `sti`: both raise #GP there; the trap looks at the opcode and does it for ring 3;
//! * interrupts: vector 0x40 counts itself and acknowledges the local APIC.
//!
//! Any other trap is a bug: it prints its vector and the top of its stack in hexadecimal and ends
//! the machine with code 0x7e. Entry contract: Xen's PVH boot ABI (ebx = start info, flat
//! segments); formats: Intel SDM volume 3, chapters 3 (descriptors), 4 (paging), 6 (IDT), 8 (TSS).

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

    // Trap stubs, 16 bytes each, at 0x100000 + 16 * vector.
    .section .traps, "ax"
    .code64
    .set vector, 0
    .rept 32
    .balign 16
    pushq $vector
    jmp trap
    .set vector, vector + 1
    .endr
    .balign 16                  // 0x100200: vector 0x40
    incq interrupt_count
    pushq %rax
    movl $0xfee000b0, %eax      // end of interrupt
    movl $0, (%rax)
    popq %rax
    iretq

    .text
trap:
    cmpq $13, (%rsp)
    jne unexpected
    pushq %rax
    movq 24(%rsp), %rax         // above rax, vector and error code: where it happened
    movzbl (%rax), %eax
    cmpb $0xf4, %al
    je halt_for_user
    cmpb $0xfb, %al
    je allow_interrupts
    jmp unexpected
allow_interrupts:
    orq $0x200, 40(%rsp)
    popq %rax
    addq $16, %rsp
    incq (%rsp)
    iretq
halt_for_user:
    popq %rax
    addq $16, %rsp
    incq (%rsp)
    hlt
    iretq
unexpected:
    movl $0x3f8, %edx
    movl $6, %ebx               // quadwords from the stack to show
next_word:
    movb $'!', %al
    outb %al, %dx
    popq %rsi
    movl $16, %ecx
next_digit:
    rolq $4, %rsi
    movl %esi, %eax
    andl $15, %eax
    movb hex_digits(%rax), %al
    outb %al, %dx
    decl %ecx
    jnz next_digit
    decl %ebx
    jnz next_word
    movb $'\n', %al
    outb %al, %dx
    movb $0x7e, %al
    movl $0xf4, %edx
    outb %al, %dx
    lidt no_table               // nobody listens at the exit port: end by a triple fault
    int3

    .globl pvh_entry
    .code32
pvh_entry:
    cli
    movl $task_state, %eax      // the linker cannot split an address over a descriptor's fields
    movw %ax, task_descriptor + 2
    shrl $16, %eax
    movb %al, task_descriptor + 4
    movb %ah, task_descriptor + 7
    movl $level4, %eax
    movl %eax, %cr3
    movl $0x620, %eax           // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx      // EFER.LME
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax      // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt descriptor_table
    ljmp $0x08, $in_long_mode
    .code64
in_long_mode:
    lidt interrupt_table
    movl $0x10, %eax
    movl %eax, %ss
    movl $0x23, %eax
    movl %eax, %ds
    movl %eax, %es
    movl $0x28, %eax
    ltr %ax
    movl $kernel_stack_top, %esp
    pushq $0x23
    pushq $user_stack_top - 8   // as if called
    pushq $0x2                  // flags: interrupts stay off until sti
    pushq $0x1b
    pushq $user_main
    movl %ebx, %edi
    iretq

    .section .rodata
hex_digits:
    .ascii "0123456789abcdef"
no_table:
    .word 0
    .quad 0

    .data
    .balign 4096
    .globl level4, level3
level4:
    .quad level3 + 7
    .fill 511, 8, 0
level3:
    .quad level2 + 7, level2 + 0x1007, level2 + 0x2007, level2 + 0x3007
    .fill 508, 8, 0
level2:                         // 4 GiB one to one
    .set page, 0
    .rept 2048
    .quad page * 0x200000 + 0x87
    .set page, page + 1
    .endr
    .balign 16
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff    // 0x08 ring 0 code
    .quad 0x00cf93000000ffff    // 0x10 ring 0 data
    .quad 0x00affb000000ffff    // 0x18 ring 3 code
    .quad 0x00cff3000000ffff    // 0x20 ring 3 data
task_descriptor:                // 0x28 task state, limit 0x68 + 8192
    .quad 0x0000890000002068, 0
descriptor_table:
    .word . - descriptors - 1
    .quad descriptors
    .balign 16
gates:
    .set vector, 0
    .rept 32
    .quad 0x00108e0000080000 + 16 * vector, 0
    .set vector, vector + 1
    .endr
    .fill 64, 8, 0
    .quad 0x00108e0000080200, 0
interrupt_table:
    .word . - gates - 1
    .quad gates
    .balign 8
    .globl interrupt_count
interrupt_count:
    .quad 0
    .balign 4096
task_state:
    .long 0
    .quad kernel_stack_top
    .fill 90, 1, 0
    .word 0x68
    .fill 8192, 1, 0
    .byte 0xff

    .bss
    .balign 16
    .skip 8192
kernel_stack_top:
    .skip 65536
user_stack_top:
"#,
    options(att_syntax)
);
