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
//     target's; a command of a manager runs to its end at once, though a crash can fall anywhere inside of it.
//   - Devices: ring/ringtest. A killed process leaves what the kernel had; a power failure loses any versions of any sectors
//     that were not flushed.
//   - Network: each direction of a connection keeps its order and delays; connections are independent. A connection breaks with
//     any part of what was on its way delivered, the last frame in pieces; after a reconnect frames are sent again. A
//     partition breaks connections, or makes everything wait. Update frames are really encoded and decoded.
//   - Hosts: a chain of dependent records over all volumes (each durable before the next begins) and overlapping writes, writes of parts of
//     blocks, zeroes and trims.
//
// # Operations
//
//	record                              the next record of the chain
//	write|part|zeroes|trim node=V a=BLOCK b=COUNT [how=fua]
//	kill node=N                         kill -9; it is started again
//	power node=N [how=POLICY]           power failure; how says what of the unflushed sectors is kept
//	power node=S a=EVENT b=COUNT        ... at a device event: 1 submission, 2 completion, 3 end of a flush
//	cut node=N peer=N                   connections break
//	part-net node=N [peer=N] for=TIME [how=stall]
//	hang node=N for=TIME                the process stands still
//	failover how=crash|alive|log-lost   the other manager takes over
//	checkpoint node=S, snapshot node=S for=TIME
//	disk node=S how=write|short|flush|read a=SKIP    I/O errors
//	rot node=S a=PLACE                  a bit of a table page flips while the machine is off
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
//   - R6, "view": both views of every volume on every secondary hold exactly what the primary held at the cut of the
//     CG that they show, by the checksums in the tables; "read": byte for byte, after each recovery, at the end, often in between, and
//     for readers that hold a view for long.
//   - "one CG": two secondaries show the same CG, or two that were decided one after the other, the newer linked on both.
//   - "blocks": no physical block is named twice, none that is named is free, and named + reserved = used.
//   - "acknowledged": epoch, complete, linked and final CGs that were acknowledged are there after every crash.
//   - "dependent writes": no decided CG shows a record without those before it.
//   - "recovery": a pool opens after every crash; one that was damaged is refused or shows the right contents.
//   - "pool", "halt": no pool and no leading manager stops without a fault of a device or log that explains it.
//   - "progress": once faults end, a CG with everything becomes final within two minutes of virtual time, and equals the
//     primaries' devices.
//   - "panic": nothing panics.
//
// # Planted faults
//
// Package internal/plant lists fifteen faults that the build tag "plant" compiles into the product, one of which is active at a
// time. Each must be noticed within 500 seeds:
//
//	go test -tags plant ./internal/sim -run TestPlants -v
//
// # A failure
//
// Run returns a [Failure] with the invariant and the shortest list of operations found that breaks it. As text it is a
// replay for "farside sim --replay"; those of bugs that were mended are in testdata.
package sim
