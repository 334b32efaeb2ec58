/*
 * Runs instruction cases on the processor of this machine and writes the state each one ends in.
 *
 *   harness CASES RESULTS
 *
 * A case is loaded by returning from a signal handler into it: the kernel's sigreturn restores every general register,
 * the flags and the FXSAVE image from the signal frame. Code pages are filled with INT3, so a case ends either with
 * #BP or with the exception it raised; both arrive as a signal that carries the final state, the exception vector, its
 * error code and CR2. The handler stores the result, restores memory and continues with the next case. The layouts of
 * both files are described in test/cpu/vectors/README.md.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum {
  CODE = 0x200000,
  CODE_SIZE = 0x2000,
  DATA = 0x300000,
  DATA_SIZE = 0x2000,
  STACK = 0x310000,
  STACK_SIZE = 0x1000,
  MAGIC = 0x31434c44,
  FX_LEGACY = 416, /* bytes of the FXSAVE image in front of its reserved part */
  COMPAT = 1,      /* case flag: 32-bit code segment */
  SELECTOR_64 = 0x33,
  SELECTOR_32 = 0x23,
  SELECTOR_DATA = 0x2b,
  VECTOR_TIMEOUT = 0xfe,
  TICK_MICROSECONDS = 50000
};

typedef struct {
  uint32_t magic, count;
  uint8_t data[DATA_SIZE], stack[STACK_SIZE];
} Header;

typedef struct {
  uint32_t code_address;
  uint16_t code_length, flags;
  uint32_t eflags, patch_address;
  uint64_t registers[16];
  uint8_t patch[64], fx[512];
} Case;

typedef struct {
  uint8_t vector, zero;
  uint16_t runs;
  uint32_t error;
  uint64_t rip, cr2;
  uint32_t eflags, index;
  uint64_t registers[16];
  uint8_t fx[512];
} Result;

/* Signal frame slots of RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15. */
static const int SLOT[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static const Header *header;
static const uint8_t *cursor;
static const Case *current;
static uint32_t started;
static uint32_t ticked;
static FILE *output;
static uint8_t expected_data[DATA_SIZE], expected_stack[STACK_SIZE];

static void fail(const char *what) {
  perror(what);
  _exit(2);
}

/* Appends the runs of bytes that differ between memory and what the case started with; returns how many. */
static uint16_t collect(uint8_t *into, size_t *used, uint32_t base, uint8_t *expected, uint32_t size) {
  const uint8_t *now = (const uint8_t *)(uintptr_t)base;
  uint16_t runs = 0;
  if (memcmp(now, expected, size) == 0) return 0;
  for (uint32_t at = 0; at < size;) {
    if (now[at] == expected[at]) {
      at++;
      continue;
    }
    uint32_t end = at + 1, address = base + at;
    for (uint32_t look = end; look < size && look < end + 8; look++)
      if (now[look] != expected[look]) end = look + 1;
    uint32_t length = end - at;
    memcpy(into + *used, &address, 4);
    memcpy(into + *used + 4, &length, 4);
    memcpy(into + *used + 8, now + at, length);
    *used += (8 + length + 7) & ~7u;
    runs++;
    at = end;
  }
  return runs;
}

static void save(ucontext_t *context, uint8_t vector) {
  static uint8_t runs[4 * (DATA_SIZE + STACK_SIZE)];
  greg_t *g = context->uc_mcontext.gregs;
  Result result = {.vector = vector, .index = started - 1};
  size_t used = 0;
  result.error = (uint32_t)g[REG_ERR];
  result.rip = (uint64_t)g[REG_RIP];
  result.cr2 = (uint64_t)g[REG_CR2];
  result.eflags = (uint32_t)g[REG_EFL];
  for (int i = 0; i < 16; i++) result.registers[i] = (uint64_t)g[SLOT[i]];
  memcpy(result.fx, context->uc_mcontext.fpregs, FX_LEGACY);
  result.runs = collect(runs, &used, DATA, expected_data, DATA_SIZE);
  result.runs += collect(runs, &used, STACK, expected_stack, STACK_SIZE);
  if (fwrite(&result, sizeof result, 1, output) != 1 || (used && fwrite(runs, used, 1, output) != 1)) fail("write");
}

static void apply_patch(void) {
  uint32_t address = current->patch_address;
  if (address == 0) return;
  memcpy((void *)(uintptr_t)address, current->patch, 64);
  if (address >= STACK) memcpy(expected_stack + (address - STACK), current->patch, 64);
  else memcpy(expected_data + (address - DATA), current->patch, 64);
}

static void start_next(ucontext_t *context) {
  if (started == header->count) {
    if (fclose(output) != 0) fail("close");
    _exit(0);
  }
  greg_t *g = context->uc_mcontext.gregs;
  current = (const Case *)cursor;
  cursor += sizeof(Case) + ((current->code_length + 7u) & ~7u);
  started++;
  memcpy(expected_data, header->data, DATA_SIZE);
  memcpy(expected_stack, header->stack, STACK_SIZE);
  memcpy((void *)DATA, header->data, DATA_SIZE);
  memcpy((void *)STACK, header->stack, STACK_SIZE);
  apply_patch();
  memset((void *)CODE, 0xcc, CODE_SIZE);
  memcpy((void *)(uintptr_t)current->code_address, current + 1, current->code_length);
  for (int i = 0; i < 16; i++) g[SLOT[i]] = (greg_t)current->registers[i];
  g[REG_RIP] = current->code_address;
  g[REG_EFL] = current->eflags;
  g[REG_CR2] = 0;
  uint64_t selectors = (uint64_t)SELECTOR_DATA << 48;
  g[REG_CSGSFS] = (greg_t)(selectors | (current->flags & COMPAT ? SELECTOR_32 : SELECTOR_64));
  uint8_t *fx = (uint8_t *)context->uc_mcontext.fpregs;
  memcpy(fx, current->fx, FX_LEGACY);
  *(uint64_t *)(fx + 512) |= 3; /* XSTATE_BV: x87 and SSE state are in the image */
  __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"((uint32_t)SELECTOR_DATA));
}

/*
 * Clears AC, NT and ID, which a case may have set: the kernel keeps them when it enters a handler. The handler's own
 * accesses are unaligned, and sigreturn does not restore NT and ID, so the next case would start with them.
 */
static inline void reset_flags(void) {
  __asm__ volatile("pushfq; andq $~0x244000, (%%rsp); popfq" ::: "memory", "cc");
}

static void on_exception(int signal_number, siginfo_t *info, void *frame) {
  reset_flags();
  ucontext_t *context = frame;
  (void)signal_number;
  (void)info;
  if (started) save(context, (uint8_t)context->uc_mcontext.gregs[REG_TRAPNO]);
  start_next(context);
}

/* A case that is still the same after a whole tick loops for ever: end it with VECTOR_TIMEOUT. */
static void on_tick(int signal_number, siginfo_t *info, void *frame) {
  reset_flags();
  (void)signal_number;
  (void)info;
  if (started == 0 || ticked != started) {
    ticked = started;
    return;
  }
  save(frame, VECTOR_TIMEOUT);
  start_next(frame);
}

static void map(uint32_t address, uint32_t size, int protection) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE;
  if (mmap((void *)(uintptr_t)address, size, protection, flags, -1, 0) == MAP_FAILED) fail("mmap");
}

static void install(int number, void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
  action.sa_sigaction = handler;
  sigfillset(&action.sa_mask);
  if (sigaction(number, &action, NULL) != 0) fail("sigaction");
}

int main(int count, char **arguments) {
  if (count != 3) return fprintf(stderr, "usage: harness CASES RESULTS\n"), 2;
  int input = open(arguments[1], O_RDONLY);
  struct stat status;
  if (input < 0 || fstat(input, &status) != 0) fail(arguments[1]);
  header = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, input, 0);
  if (header == MAP_FAILED || header->magic != MAGIC) return fprintf(stderr, "%s: not a case file\n", arguments[1]), 2;
  cursor = (const uint8_t *)(header + 1);
  output = fopen(arguments[2], "wb");
  if (!output) fail(arguments[2]);
  setvbuf(output, NULL, _IOFBF, 1 << 20);
  map(CODE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
  map(DATA, DATA_SIZE, PROT_READ | PROT_WRITE);
  map(STACK, STACK_SIZE, PROT_READ | PROT_WRITE);
  stack_t stack = {.ss_sp = malloc(1 << 20), .ss_size = 1 << 20};
  if (!stack.ss_sp || sigaltstack(&stack, NULL) != 0) fail("sigaltstack");
  const int exceptions[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
  for (unsigned i = 0; i < sizeof exceptions / sizeof *exceptions; i++) install(exceptions[i], on_exception);
  install(SIGVTALRM, on_tick);
  struct itimerval tick = {{0, TICK_MICROSECONDS}, {0, TICK_MICROSECONDS}};
  setitimer(ITIMER_VIRTUAL, &tick, NULL);
  __asm__ volatile("int3");
  return 3;
}
