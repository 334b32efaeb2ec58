import fc from "fast-check";
import { expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { Headers } from "../../../engine/network/headers.ts";
import { hasRightChecksums } from "../../../engine/network/offload.ts";
import { parseImpairment } from "../../../engine/network/policy/impair-spec.ts";
import { parseRate } from "../../../engine/network/policy/rate.ts";
import { icmpFrame, must, PolicyBench, tcpFrame, udpFrame, VIF1, VIF2 } from "./policy-bench.ts";

const words = fc.constantFrom(
  ..."-A -I -D -R -N -X -P -F -Z FORWARD web ACCEPT DROP REJECT LOG RETURN".split(" "),
  ..."-p tcp udp icmp arp -s -d 10.0.0.1 fd00::1/64 -i vif1.+ -o".split(" "),
  ..."--dport --sport 80 1:2 --syn --tcp-flags SYN,ACK SYN".split(" "),
  ..."-m state --state NEW limit --limit 5/s --limit-burst 3 ! -f -j 1 -".split(" "),
);

test("whatever is written, it is taken or refused in one line, and a refusal changes nothing", () => {
  const text = fc.oneof(
    fc.array(words, { maxLength: 14 }).map((all) => all.join(" ")),
    fc.array(words, { maxLength: 10 }).map((all) => `-A FORWARD ${all.join(" ")}`),
    fc.string({ unit: "binary", maxLength: 60 }),
  );
  fc.assert(
    fc.property(text, (line) => {
      const { policy } = new PolicyBench();
      must(policy.rules.edit("-N web\n-A FORWARD -p tcp -j web\n-A web -s 10.0.0.9 -j DROP"));
      const before = policy.rules.save();
      const result = policy.rules.edit(line);
      if (result.ok) must(policy.rules.replace(policy.rules.save().join("\n")));
      else {
        expect(policy.rules.save()).toEqual(before);
        expect(result.error.message).not.toMatch(/[\n\r]/);
        expect(result.error.offset).toBeLessThanOrEqual(result.error.line.length);
      }
      for (const parsed of [parseRate(line), parseImpairment(line), policy.accounting.add(line)]) {
        if (!parsed.ok) expect(parsed.error.remedy).not.toBe("");
      }
    }),
    { numRuns: 800 },
  );
});

test("whatever a guest sends, rules of every kind neither throw nor look past the head", () => {
  const bench = new PolicyBench();
  must(
    bench.policy.rules.edit(`-N all
      -A FORWARD -m state --state INVALID -j LOG
      -A FORWARD -p arp -j all
      -A FORWARD -j all
      -A all -p tcp -m multiport --ports 1:9 -j LOG
      -A all -d fd00::/8 -m length --length 0:65535 -j LOG
      -A all -p icmp --icmp-type any -j LOG
      -A all -m conntrack --ctstate NEW -j LOG
      -A FORWARD -j REJECT`),
  );
  must(bench.policy.accounting.add("class all: -j LOG"));
  const seeds = [
    tcpFrame(2),
    tcpFrame(16, { from: "fd00::1", to: "fd00::2" }),
    udpFrame(),
    icmpFrame(3, 1, Uint8Array.from([0, 0, 0, 0, ...udpFrame().subarray(14)])),
  ];
  const change = fc.record({ at: fc.nat({ max: 80 }), byte: fc.nat({ max: 255 }) });
  let looked = 0;
  fc.assert(
    fc.property(fc.nat({ max: 3 }), fc.array(change, { maxLength: 6 }), fc.nat({ max: 60 }), (n, changes, cut) => {
      const bytes = Uint8Array.from(seeds[n] ?? []);
      for (const { at, byte } of changes) if (at < bytes.length) bytes[at] = byte;
      const frame = Frame.of(bytes.subarray(0, bytes.length - cut));
      const headers = new Headers();
      if (headers.parse(frame) !== undefined) return;
      looked++;
      bench.answers.length = 0;
      bench.clock.time += 1e9;
      const { ingress, forward } = bench.policy.hooks;
      expect(ingress?.(frame, headers, VIF1)).toBe("accept");
      // What is not IP passes, everything else is refused at the end.
      expect(forward?.(frame, headers, VIF1, VIF2)).toBe(headers.ipVersion === 0 ? "accept" : "drop");
      for (const { frame: answer } of bench.answers) {
        const own = new Headers();
        expect(own.parse(answer)).toBeUndefined();
        expect(hasRightChecksums(answer, own)).toBe(true);
      }
    }),
    { numRuns: 1500 },
  );
  expect(looked).toBeGreaterThan(100);
  for (const line of bench.lines) expect(line).not.toMatch(/undefined|NaN/);
});
