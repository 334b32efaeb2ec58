import { describe, expect, test } from "vitest";
import { InterfaceNumbers } from "../../../engine/network/policy/packet.ts";
import { RuleSet } from "../../../engine/network/policy/rule-set.ts";
import { errorOf, must } from "./policy-bench.ts";

function forwardRules(): RuleSet {
  return new RuleSet([{ name: "FORWARD", knowsOut: true }], new InterfaceNumbers());
}

function interfaceRules(): RuleSet {
  const builtIn = [
    { name: "INPUT", knowsOut: true },
    { name: "OUTPUT", knowsOut: false },
  ];
  return new RuleSet(builtIn, new InterfaceNumbers());
}

describe("rules as text", () => {
  test.each([
    ["-p tcp --dport 80 -j ACCEPT", "-p tcp -m tcp --dport 80 -j ACCEPT"],
    ["-j DROP -p udp -s 10.0.0.9/24", "-s 10.0.0.0/24 -p udp -j DROP"],
    ["-i vif1.0 -o vif2.+ -j ACCEPT", "-i vif1.0 -o vif2.+ -j ACCEPT"],
    ["-s 10.1.2.3/255.255.0.0 -d 10.0.0.7 -j DROP", "-s 10.1.0.0/16 -d 10.0.0.7/32 -j DROP"],
    ["! -s 10.0.0.1 -p ! udp -j DROP", "! -s 10.0.0.1/32 ! -p udp -j DROP"],
    ["-p 6 --sport 1024: --dport http -j DROP", "-p tcp -m tcp --sport 1024:65535 --dport 80 -j DROP"],
    ["-p tcp --syn -j DROP", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"],
    ["-p tcp ! --syn -j DROP", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"],
    ["-p tcp --tcp-flags ALL NONE -j DROP", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP"],
    ["-m state --state ESTABLISHED,RELATED -j ACCEPT", "-m state --state RELATED,ESTABLISHED -j ACCEPT"],
    ["-m conntrack ! --ctstate new -j DROP", "-m conntrack ! --ctstate NEW -j DROP"],
    ["-m limit --limit 5/second --limit-burst 10 -j ACCEPT", "-m limit --limit 5/sec --limit-burst 10 -j ACCEPT"],
    ["-m limit --limit 3/h -j ACCEPT", "-m limit --limit 3/hour --limit-burst 5 -j ACCEPT"],
    ["-m mac --mac-source 00:16:3E:00:00:0A -j DROP", "-m mac --mac-source 00:16:3e:00:00:0a -j DROP"],
    ["-p tcp -m multiport --dports 80,443,8000:8010 -j DROP", "-p tcp -m multiport --dports 80,443,8000:8010 -j DROP"],
    ["-p icmp --icmp-type ping -j ACCEPT", "-p icmp -m icmp --icmp-type echo-request -j ACCEPT"],
    ["-p icmp --icmp-type 3/1 -j ACCEPT", "-p icmp -m icmp --icmp-type host-unreachable -j ACCEPT"],
    ["-p ipv6-icmp --icmpv6-type 200 -j DROP", "-p icmpv6 -m icmp6 --icmpv6-type 200 -j DROP"],
    ["-f -j DROP", "-f -j DROP"],
    ["-p arp -s 10.0.0.5 -j DROP", "-s 10.0.0.5/32 -p arp -j DROP"],
    ["-s fd00::1234/64 -j DROP", "-s fd00::/64 -j DROP"],
    ["-6 -j DROP", "-6 -j DROP"],
    ["-p tcp -j REJECT --reject-with tcp-reset", "-p tcp -j REJECT --reject-with tcp-reset"],
    ["-j LOG --log-prefix 'a \"b\": ' --log-level info", '-j LOG --log-prefix "a \\"b\\": " --log-level info'],
    ['-m comment --comment "for the web" -j DROP', '-m comment --comment "for the web" -j DROP'],
    [
      "-m length --length 64:128 -m pkttype --pkt-type broadcast",
      "-m length --length 64:128 -m pkttype --pkt-type broadcast",
    ],
    ["", ""],
  ])("%s", (text, printed) => {
    const rules = forwardRules();
    must(rules.edit(`-A FORWARD ${text}`));
    expect(rules.save()).toEqual(["-P FORWARD ACCEPT", `-A FORWARD ${printed}`.trim()]);
    // What is printed reads back as the same.
    const again = forwardRules();
    must(again.replace(rules.save().join("\n")));
    expect(again.save()).toEqual(rules.save());
  });
});

describe("texts that are no rules", () => {
  // The word that the error must point at, and what its message must say.
  test.each([
    ["-A FORWARD -p tcp --dprot 80 -j DROP", "--dprot", "unknown option --dprot", "did you mean --dport?"],
    ["-A FORWARD -p tpc -j DROP", "tpc", "unknown protocol tpc", "did you mean tcp?"],
    ["-A FORWARD -j ACEPT", "ACEPT", "no target or chain ACEPT", "did you mean ACCEPT?"],
    ["-A FORWARD -j accept", "accept", "no target or chain accept", "did you mean ACCEPT?"],
    ["-A FORWRD -j DROP", "FORWRD", "no chain FORWRD", "did you mean FORWARD?"],
    ["-A FORWARD -s 10.0.0.300 -j DROP", "10.0.0.300", '"10.0.0.300" is no IPv4 address', "10.0.0.5"],
    ["-A FORWARD -s 10.0.0.0/33 -j DROP", "10.0.0.0/33", "is no mask", "from 0 to 32"],
    ["-A FORWARD -s 10.0.0.1,10.0.0.2 -j DROP", "10.0.0.1,10.0.0.2", "several addresses", "one rule for each"],
    ["-A FORWARD -s 10.0.0.1 -d fd00::1 -j DROP", "fd00::1", "IPv6 here, but IPv4", "one rule for each"],
    ["-A FORWARD -p icmp -d fd00::1 -j DROP", "fd00::1", "IPv6 here, but IPv4", "one rule for each"],
    ["-A FORWARD --dport 80 -j DROP", "--dport", "--dport without -p tcp or -p udp", "add -p tcp or -p udp"],
    ["-A FORWARD ! -p tcp --dport 80 -j DROP", "--dport", "--dport without -p tcp", "add"],
    ["-A FORWARD -p udp --syn -j DROP", "--syn", "--syn without -p tcp", "add -p tcp"],
    ["-A FORWARD -p tcp --dport 70000 -j DROP", "70000", '"70000" is no port', "0 to 65535"],
    ["-A FORWARD -p tcp --dport 90:80 -j DROP", "90:80", "runs backwards", "80:90"],
    ["-A FORWARD -p tcp --dport -j DROP", "--dport", "--dport needs a port", "--dport 80"],
    ["-A FORWARD -p tcp --tcp-flags SYN -j DROP", "--tcp-flags", "needs the flags set behind the mask", ""],
    ["-A FORWARD -p tcp --tcp-flags SYM SYN -j DROP", "SYM", 'unknown TCP flag "SYM"', "did you mean SYN?"],
    ["-A FORWARD -m sate --state NEW -j DROP", "sate", "unknown match sate", "did you mean state?"],
    ["-A FORWARD -m state --state ESTABLISHD -j DROP", "ESTABLISHD", "unknown state", "did you mean ESTABLISHED?"],
    ["-A FORWARD -m limit --limit 5/fortnight -j DROP", "5/fortnight", "is no limit", "5/second"],
    ["-A FORWARD --limit-burst 5 -j DROP", "--limit-burst", "without --limit", "--limit 5/second"],
    ["-A FORWARD -p icmp --icmp-type echo-requst", "echo-requst", "unknown ICMP type", "did you mean echo-request?"],
    ["-A FORWARD -m mac --mac-source 00:16:3e -j DROP", "00:16:3e", "is no MAC address", "00:16:3e:12:34:56"],
    ["-A FORWARD -j REJECT --reject-with tcp-reset", "tcp-reset", "tcp-reset without -p tcp", "add -p tcp"],
    ["-A FORWARD -j REJECT --reject-with icmp-prot", "icmp-prot", "unknown answer", ""],
    ["-A FORWARD -d fd00::1 -j REJECT --reject-with icmp-port-unreachable", "icmp-port-unreachable", "IPv4 here", ""],
    ["-A FORWARD --log-prefix x -j LOG", "--log-prefix", "belongs to LOG", "behind -j LOG"],
    ["-A FORWARD -j DROP -j ACCEPT", "-j", "-j given twice", "once"],
    ["-A FORWARD ! ! -s 10.0.0.1", "!", '"!" belongs to no option', ""],
    ["-A FORWARD ! -s ! 10.0.0.1", "!", "negated twice", ""],
    ["-A FORWARD ! -j DROP", "DROP", "cannot be negated", ""],
    ["-A FORWARD -p arp --dport 80", "--dport", "without -p tcp", ""],
    ["-A FORWARD -p arp -s fd00::1", "-p", "-p arp", ""],
    ["-A FORWARD 10.0.0.1 -j DROP", "10.0.0.1", "belongs to no option", "before it"],
    ['-A FORWARD -j LOG --log-prefix "open', '"', "quote is not closed", "add"],
    ["-A FORWARD -j FORWARD", "FORWARD", "FORWARD is a built-in chain", "-N"],
    ["-I FORWARD 2 -j DROP", "2", "no rule 2 in FORWARD", "no rules"],
    ["-D FORWARD 1", "1", "no rule 1 in FORWARD", "no rules"],
    ["-D FORWARD -j DROP", "-j", "no such rule", "number"],
    ["-R FORWARD 1.5 -j DROP", "1.5", "no rule 1.5", ""],
    ["-P FORWARD REJECT", "REJECT", '"REJECT" is no policy', "ACCEPT or DROP"],
    ["-X FORWARD", "FORWARD", "built-in chain", "-F"],
    ["-N DROP", "DROP", "cannot name a chain", ""],
    ["-L FORWARD", "-L", "unknown command -L", "lists"],
    ["-F FORWARD now", "now", '"now" is too much', "leave it out"],
  ])("%s", (line, word, what, remedy) => {
    const rules = forwardRules();
    const error = errorOf(rules.edit(line));
    expect(error.message).toContain(what);
    expect(error.message).toContain(remedy);
    expect(error.message).not.toContain("\n");
    expect(error.message).toContain(line.replaceAll("\n", " "));
    expect(error.line).toBe(line);
    const pointed = line.slice(error.offset, error.offset + error.span);
    expect(pointed).toBe(word);
    // Two lines; the carets stand below the word.
    const [text = "", carets = ""] = error.pointer().split("\n");
    expect(text.slice(carets.indexOf("^"), carets.length)).toBe(word);
    expect(rules.save()).toEqual(["-P FORWARD ACCEPT"]);
  });

  test("-o where the way out is not known yet", () => {
    const rules = interfaceRules();
    expect(errorOf(rules.edit("-A OUTPUT -o vif2.0 -j DROP")).message).toContain("-o cannot be asked in OUTPUT");
    must(rules.edit("-A INPUT -o vif2.0 -j DROP"));
  });
});

describe("edits", () => {
  test("append, insert, replace, delete, by number and by rule; counters stay with their rule", () => {
    const rules = forwardRules();
    must(rules.edit("-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -p udp -j DROP"));
    must(rules.edit("iptables -I FORWARD -s 10.0.0.1 -j DROP"));
    must(rules.edit("-I FORWARD 3 -d 10.0.0.2 -j DROP"));
    expect(rules.save().slice(1)).toEqual([
      "-A FORWARD -s 10.0.0.1/32 -j DROP",
      "-A FORWARD -p tcp -j ACCEPT",
      "-A FORWARD -d 10.0.0.2/32 -j DROP",
      "-A FORWARD -p udp -j DROP",
    ]);
    must(rules.edit("-D FORWARD 1"));
    must(rules.edit("-D FORWARD -j DROP -p udp"));
    must(rules.edit("-R FORWARD 2 -p icmp -j ACCEPT"));
    expect(rules.save().slice(1)).toEqual(["-A FORWARD -p tcp -j ACCEPT", "-A FORWARD -p icmp -j ACCEPT"]);
    must(rules.edit("-P FORWARD DROP\n-F"));
    expect(rules.save()).toEqual(["-P FORWARD DROP"]);
  });

  test("a text with one error changes nothing, and says in which line it is", () => {
    const rules = forwardRules();
    must(rules.edit("-A FORWARD -p tcp -j ACCEPT"));
    const error = errorOf(rules.edit("-F\n# a comment\n-A FORWARD -j NOWHERE"));
    expect(error.message).toContain("line 3: no target or chain NOWHERE");
    expect(errorOf(rules.replace("-A FORWARD --what")).line).toBe("-A FORWARD --what");
    expect(rules.save()).toEqual(["-P FORWARD ACCEPT", "-A FORWARD -p tcp -j ACCEPT"]);
  });

  test("what iptables-save prints", () => {
    const rules = forwardRules();
    const text =
      "*filter\n:FORWARD DROP [12:3456]\n:web - [0:0]\n-A FORWARD -j web\n" +
      "-A web -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    must(rules.replace(text));
    expect(rules.save()).toEqual([
      "-P FORWARD DROP",
      "-N web",
      "-A FORWARD -j web",
      "-A web -p tcp -m tcp --dport 80 -j ACCEPT",
    ]);
  });

  test("chains: circles, depth, removal", () => {
    const rules = forwardRules();
    must(rules.edit("-N one\n-N two\n-A FORWARD -j one\n-A one -j two"));
    expect(errorOf(rules.edit("-A two -j one")).message).toContain("one would call itself through two");
    expect(errorOf(rules.edit("-A two -j two")).message).toContain("two would call itself");
    expect(errorOf(rules.edit("-X two")).message).toContain("chain two is called from one");
    expect(errorOf(rules.edit("-X one")).message).toContain("chain one has rules");
    expect(errorOf(rules.edit("-N one")).message).toContain("chain one exists");
    must(rules.edit("-F one\n-X two\n-F\n-X"));
    expect(rules.save()).toEqual(["-P FORWARD ACCEPT"]);
    // The chain above may grow as well as the one below: both count.
    const names = Array.from({ length: 17 }, (_, n) => `c${n}`);
    must(rules.edit(names.map((name) => `-N ${name}`).join("\n")));
    must(
      rules.edit(
        names
          .slice(1)
          .map((name, n) => `-A c${n} -j ${name}`)
          .join("\n"),
      ),
    );
    expect(errorOf(rules.edit("-A FORWARD -j c0")).message).toContain("more than 16 deep");
    must(rules.edit("-A FORWARD -j c1"));
    must(rules.edit("-N last"));
    expect(errorOf(rules.edit("-A c16 -j last")).message).toContain("more than 16 deep");
  });

  test("the list has iptables' columns and words", () => {
    const rules = forwardRules();
    must(
      rules.edit(
        [
          "-P FORWARD DROP",
          "-N web",
          "-A FORWARD -i vif1.0 -s 10.0.0.0/24 -p tcp --dport 80 -m state --state NEW -j web",
          "-A web ! -d fd00::1 -m limit --limit 5/s -j LOG --log-prefix 'x: '",
        ].join("\n"),
      ),
    );
    const compact = rules
      .list()
      .split("\n")
      .map((line) => line.replace(/\s+/g, " ").trim());
    const heads = "num pkts bytes target prot opt in out source destination";
    expect(compact).toEqual([
      "Chain FORWARD (policy DROP 0 packets, 0 bytes)",
      heads,
      "1 0 0 web tcp -- vif1.0 * 10.0.0.0/24 0.0.0.0/0 dpt:80 state NEW",
      "",
      "Chain web (1 references)",
      heads,
      '1 0 0 LOG all -- * * ::/0 !fd00::1 limit: avg 5/sec burst 5 prefix "x: "',
    ]);
  });
});
