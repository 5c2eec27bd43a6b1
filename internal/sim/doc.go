// Package sim simulates the whole system, crash by crash: one process, one seeded loop, virtual time, no
// goroutines. The same seed always does the same.
//
// # Model
//
// A seed draws a system: 1 to 3 primaries, 1 to 3 secondaries, volumes of 24 to 96 blocks that each go to
// some of the secondaries, sector sizes, one or two devices for each pool, pools so small that they fill up, tunables of all
// parts, and how slow devices and network are. It also draws a list of operations ([Op]), after which
// all faults end and the system must come to rest.
//
//   - Managers: manager.Core, driven as manager.Node drives it. There are two; one takes over from the other with a higher
//     epoch, whether that one has stopped, hangs, or goes on without knowing. They share one decision log, to which,
//     as in etcd, only the one that began the newest epoch can write. Of records being written a crash
//     keeps any number of the first.
//   - Primaries: primary.Core over simulated devices. A write of the write-intent log that a crash interrupts
//     is there in any of its sectors, or not.
//   - Secondaries: engine.Pool with Options.Manual, and what decides in package target (Receiver, Chain, Match). A secondary's
//     bookkeeping of connections (which stream is resumed, who gives way to whom, credits) is simulated here after package
//     target's. A manager's command and a checkpoint are coroutines that rest after each I/O: crashes, frames and other events
//     fall between their steps; commands of one group wait for each other, as target.Chain has them do.
//   - Devices: ring/ringtest. A killed process leaves what the kernel had, still not durable, and any part of what was in flight;
//     a power failure loses any versions of any sectors that were not flushed.
//   - Network: each direction of a connection keeps its order and delays; connections are independent. A connection breaks with
//     any part of what was on its way delivered, the last frame in pieces; after a reconnect frames are sent again. A
//     partition breaks connections, or makes everything wait. Update frames are really encoded and decoded.
//   - Members: in one seed of five controls join the group and leave it: a pair of a primary and a secondary of their own, another secondary for
//     copies of a volume that is there, or those that were there from the beginning. A secondary that comes back and shows anything has new
//     devices and a new pool. Where those who are left cannot form CGs, because one has copies on another that is not there, the group waits;
//     once faults have ended an operator adds whoever is missing. The decision log may be lost in such a run only while all secondaries show the same.
//   - Hosts: a chain of dependent records over all volumes (each durable before the next begins) and overlapping writes, writes of parts of
//     blocks, zeroes and trims.
//
// # Operations
//
//	record                              the next record of the chain
//	write|part|zeroes|trim node=V a=BLOCK b=COUNT [how=fua]
//	kill node=N                         kill -9; it is started again
//	kill node=S a=EVENT b=COUNT [for=TIME how=POLICY]   ... at a device event; that long after the start the power fails
//	power node=N [how=POLICY]           power failure; how says what of the unflushed sectors is kept
//	power node=N a=EVENT b=COUNT        ... at a device event of a primary or secondary: 1 submission, 2 completion, 3 end of a flush
//	cut node=N peer=N                   connections break
//	part-net node=N [peer=N] for=TIME [how=stall]
//	hang node=N for=TIME                the process stands still
//	failover how=crash|alive|log-lost   the other manager takes over
//	checkpoint node=S, snapshot node=S for=TIME
//	disk node=S how=write|short|flush|read a=SKIP for=TIME    I/O errors
//	vanish node=S a=DEVICE b=SKIP for=TIME how=POLICY   a device is gone, and comes back with a power cycle
//	rot node=S a=PLACE                  a bit of a table page flips while the machine is off
//	rot node=S a=PLACE b=COPY           ... or of one copy of a superblock
//	flip node=S a=PLACE                 a bit of a block flips that a volume shows
//	stray node=S a=SKIP b=BLOCKS        a write of data goes that far beyond where it should
//	member node=N how=add|remove        an operator has a control join the group, or leave it
//	mangle node=P peer=S                an update changes on its way although all its checksums are right
//
// m0 stands for the manager with the newest epoch.
//
// # Invariants
//
// After every step, or at the points named:
//
//   - R1: LINK(n) is sent only when every secondary had n complete.
//   - R2: RELEASE(n) is sent only when n is durably decided; what is final on a secondary was decided.
//   - R3: what was decided is never reverted or discarded; no CG is held while a secondary shows another CG than the decided one;
//     decisions ascend; a revert ends only when every secondary has answered it.
//   - R4: nobody obeys an epoch after a higher one, and a manager sends only its own.
//   - R5: a recovery point that a manager speaks of is final on some secondary.
//   - "members": who is a member durably takes part in each CG that is held from then on, and is in its decision; LINK is sent to nobody who never was
//     a member durably. What is said of every secondary is said of those that take part, from the first CG on that they do with the pool they
//     have; what one shows that left, and holds no CG up, is not judged.
//   - R6, "view": both views of every volume on every secondary hold exactly what the primary held at the cut of the
//     CG that they show, by the checksums in the tables; "read": byte for byte, after each recovery, at the end, often in between, and
//     for readers that hold a view for long.
//   - "one CG": two secondaries show the same CG, or two that were decided one after the other, the newer linked on both.
//   - "blocks": no physical block is named twice, none that is named is free, and named + reserved = used.
//   - "acknowledged": epoch, complete, linked and final CGs that were acknowledged are there after every crash.
//   - "dependent writes": no decided CG shows a record without those before it.
//   - "recovery": a pool opens after every crash; one that was damaged is refused or shows the right contents; what an open pool
//     shows, the next crash does not take away.
//   - "rot": a damaged block of data is an error to its reader, never other contents; no more blocks than were damaged are errors;
//     once hosts have written everything again, nothing is.
//   - "pool", "halt": no pool and no leading manager stops without a fault of a device or log that explains it.
//   - "progress": once faults end, a CG with everything becomes final within two minutes of virtual time, and equals the
//     primaries' devices.
//   - "panic": nothing panics.
//
// # Planted faults
//
// Package internal/plant lists twenty-one faults that the build tag "plant" compiles into the product, one of which is active at a
// time. Each must be noticed within 500 seeds:
//
//	go test -tags plant ./internal/sim -run TestPlants -v
//
// The seed that noticed it first, when this was written, and the invariant:
//
//	flush before COMPLETE left out                     5  acknowledged
//	flush before LINKED left out                      19  acknowledged
//	LINK before all COMPLETE                           1  R1
//	displaced blocks released at LINK                  1  blocks
//	displaced blocks released before FINAL is durable  1  blocks
//	blocks reused while a reader holds an old view     1  read
//	manifest's digest not compared                    16  view
//	a lower epoch accepted                             6  R4
//	revert skips controls that answer late             1  R3
//	DECIDED not made durable                           1  R2
//	checkpoint overwrites the newer slot               4  recovery
//	journal tail reclaimed a record early              1  recovery
//	checksum of a table page not verified             29  read
//	write of n+1 tagged n after HELD                   2  view
//	collision ignored in catch-up                      1  view
//	flush at open left out                           388  acknowledged
//	regions cleared without flushing the device       19  view
//	checksum of a data block not compared             13  read
//	changes of an abandoned CG forgotten               1  view
//	members not durable before they take part         11  members
//	CG decided before a joined control linked it      42  one CG
//
// For each there is a short replay in testdata that fails with the fault and passes without (TestReplaysFail, TestReplays). They hold
// the system that they run on; a change of when cores do what may still take a script's force away: then
// "go test -tags plant ./internal/sim -run TestPlants -record -first N -last N" finds another for fault N.
//
// What the simulation does not judge: a write of the journal that a device confirms and loses. Nobody can tell that from
// a journal that ended there, so writes that go elsewhere are those of data.
//
// # Campaigns
//
// 100,000 seeds, once, on 2026-11-22, in pieces of 5,000 (of farside at 1f4dd47 for the first 25,000, at 38f7d93 for the rest; half an hour of
// a machine with two processors, had it done nothing else):
//
//	farside sim --seeds 100000
//
// No seed broke an invariant. Two (19550 and 23843) ended in a panic of the simulator itself, whose processes put what waited in another
// order when they hung twice; with that mended they pass. Together 306 million checked steps, 551 million device I/Os, 2.5 million
// decided CGs and 0.8 million reverts, 373,450 power failures and 53,149 kills (296,873 of both at an I/O), 62,588 failovers, 549,559 pools
// recovered, 4.7 million copies read. Earlier campaigns of the same day, of 22,000 seeds, found a writer that went on after it could place nothing
// (seed 1250 then; engine's TestFailedWriterStaysFailed) and a fault of the simulator that came after all faults had ended.
//
// The ordinary tests run 2,000 seeds: some 11 million device I/Os, 7,500 power failures and 1,060 kills, in half a minute to two.
//
// # A failure
//
// Run returns a [Failure] with the invariant and the shortest list of operations found that breaks it. As text it is a
// replay for "farside sim --replay": the system, the operations, and the seed from which it is drawn how long
// each message and request takes.
package sim
