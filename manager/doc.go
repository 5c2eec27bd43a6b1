// Package manager is the replication manager. It forms consistency groups (CGs) over any number of primary and
// secondary controls, has each CG linked everywhere or nowhere, and takes it back from every control if one of them
// fails.
//
// [Core] is the state machine of one group. It is plain single-threaded code: events in, actions out; no goroutine,
// clock, socket or file. [Node] drives the cores of all groups over real connections, with a decision log ([Log]) and
// an audit log ([AuditLog]). [Candidate] is one of several managers with one log ([Election], [Term]); it runs a Node
// only while it leads. Each term is a start in a higher epoch.
//
// # Invariants
//
//   - R1 LINK(n) is sent to nobody before every secondary has reported CG n complete.
//   - R2 RELEASE(n), which lets a secondary reuse what n displaced, is sent to nobody before DECIDED(n) is durable in
//     the decision log.
//   - R3 Before DECIDED(n) is durable, a CG in which anything failed only goes backward. From the moment its record is
//     handed to the log, it only goes forward. If the log cannot say whether the record is durable, the group halts: a
//     restart reads the truth.
//   - R4 Every command carries (epoch, n). Answers with another epoch or another n than expected are ignored. A peer
//     that knows a higher epoch halts the group: another manager leads.
//   - R5 CG n is reported as recovery point only after some secondary reported it final; and the first one of a group
//     only if no secondary lacks a part of a volume with it.
//   - R6 Readers see the last final CG while n is being linked. The secondary ensures this; the manager's part is to
//     send RELEASE only after the decision.
//   - A CG number that may have been sent to anybody is never given out again. Numbers are reserved durably, in blocks,
//     before their first use. After a restart the numbers continue behind the last block.
//   - THAW(n) is sent only if every primary answered the *same* attempt to hold n. After an attempt that was given
//     up, OPEN(n) is sent, and n is held again only when every primary has answered it. Answers arrive in order, so a
//     HELD of the old attempt cannot be taken for one of the new.
//   - REVERTING visits every secondary, whatever is known of it, and ends only when each one has answered. No CG is
//     held before that, let alone linked.
//
// # States
//
//	STARTING   fence every control, ask every secondary what its links show, consult the log
//	IDLE       CG n is open; waiting for the interval, for every control, or for resume
//	HOLD       HOLD(n) sent, not all primaries are held
//	THAW       all were held: CG n is cut, THAW(n) sent
//	DRAIN      primaries send the rest of n, secondaries make it complete
//	LINK       all complete: LINK(n) sent
//	DECIDED    all linked: the decision is being made durable
//	RELEASE    the decision is durable: RELEASE(n) is repeated until all are final
//	REVERTING  an error before DECIDED, or a start: every secondary is visited
//	HALTED     the manager refuses to go on; the reason is in the status
//
//	STARTING -> RELEASE (decided, not final everywhere) | REVERTING | HALTED
//	IDLE -> HOLD -> THAW -> DRAIN -> LINK -> DECIDED -> RELEASE -> IDLE
//	HOLD -> IDLE (attempt given up, n stays open)
//	IDLE, HOLD, THAW, DRAIN, LINK -> REVERTING -> IDLE
//
// # Members
//
// The controls of a group are those of the configuration, until an operator changes them while the group runs. From
// then on the decision log holds the list of members, with a version that each change increments. The list has
// priority over the configuration, as the tunables in the log have. Status and an alert say where the two differ.
//
// A change is durable before it is answered. It takes effect at a boundary: a moment at which no CG is between its
// cut and its decision, so that a manager that starts with the new list would do the same. The recovery point stays.
//
//   - A control that was added is *joining* at first. It is fenced but takes part in nothing, and the group goes on
//     with the others for as long as it is not connected. At the first boundary after that, three things happen. Its
//     membership becomes durable. The open CG is discarded on every secondary, the new one included, because
//     primaries may have sent the new one CGs that it was never told to link. The next CG, with the changes of the
//     discarded one and the first part of the first copies to the new control, is the first with the new member. No drain
//     timeout applies to that CG. Until it is final, the recovery point is the one from before, on the secondaries that
//     have it.
//   - A CG that is being drained is given up when a control is ready to join, or is removed: it may be waiting for just
//     that control. Its changes are in the next CG.
//   - No CG is held while a change of the members is on its way to the log. Whoever is a member durably when a CG is
//     held takes part in it.
//   - A control that was removed takes part until the next boundary; an open revert is such a boundary too. So a
//     control that is lost for good does not stop its group once an operator has removed it. A secondary that is
//     there first takes back a link that was not decided. Then it keeps what it has, and nobody commands it any more.
//     To come back it needs a pool that shows nothing of the group: another one, unless no CG was ever final on it.
//   - An operator must also separate a removed control from those that stay. A primary that still has a copy on a
//     removed secondary cannot drain a CG. A secondary cannot complete a CG while it has a volume of a removed
//     primary. Status shows both as what the group waits for.
//   - The last primary and the last secondary cannot be removed.
//   - A manager that starts without its log uses the configuration. If the configuration has a control on which no CG
//     was ever final, and others on which one was, then that control may just have joined, or may have lost its pool;
//     only an operator knows which. The manager refuses, and says what there is to choose between.
//
// # First copies
//
// The first copy of a new group takes many CGs: a secondary needs memory for each block of a CG that is open, so that one
// CG with all of a large volume could be more than it has; and what is final is not sent again. These CGs are formed
// like all others, and bring the copies forward. But a CG that leaves a part of a volume out is not yet a state of the
// group. So each secondary says with COMPLETE(n) how many of its volumes would not be whole with n, and the decision for
// n says whether the group still has no recovery point with it (Decision.FirstCopy). The first decision that does not say
// so is for the first recovery point. Until then status says how many volumes are whole.
//
//   - The group keeps what it has reached. Whoever starts reads it in the newest decision. A volume that joins later is
//     not whole for a while, and takes nothing from the recovery points of the others.
//   - With the log lost, secondaries can say which volumes are whole, not what there was before one joined. So if one is
//     not whole, the group has no recovery point until it is.
//   - A volume that is deleted or set aside does not count from the next CG on. Nor does one to which no primary has
//     attached yet: see package engine, Standing.
//
// # Vacant secondaries
//
// A secondary is vacant if it waits for no volume of the group: all its volumes were deleted or set aside. It says so
// in its state. Nothing that a primary sends can complete a CG on it, so it would hold up all others. Therefore, once
// every primary has drained CG n, the manager asks it to complete n as it is (Query, drained). From then on it takes
// part in n like any other secondary.
//
// The alternative was not to wait for a vacant secondary. But then its CG numbers would stay behind. The decision
// table, which decides by equal numbers, would no longer hold, and a vacant secondary would have to be told apart
// from one that lost a decided CG. As it is, a vacant secondary shows the same numbers as all others, a volume that
// joins it finds the group's final CG there, and no rule has an exception.
//
// No recovery point is lost by this:
//
//   - R1 holds: a vacant secondary has all of n that it should have.
//   - Only a command of an operator makes a secondary vacant. One whose pool is gone is not vacant: its final CG is
//     not that of the group, and the group waits.
//   - No CG is held while all secondaries are vacant.
//
// Status has an alert for each vacant secondary.
//
// # Times
//
// The coordination timeout limits how long a host's write can wait for a cut: it is the timeout that a primary is given
// with HOLD. The manager itself waits only four fifths of it for the last HELD, so that THAW has the remaining fifth to
// arrive. A THAW that is late all the same is answered with Thawed(OK=false), and the CG is abandoned.
//
// Interval 0 is continuous: the next cut follows as soon as the CG before is final. After a CG in which no primary
// sent a block of payload the manager first pauses for 1 ms, and after each further empty CG in a row twice as long,
// up to 200 ms. So the first write after a quiet time is cut at most 200 ms later; after that CG there is no pause.
// (A CG with nothing but trims counts as empty.) The limit of 200 ms was chosen by measurement: a primary, a
// secondary and a manager together in one process on files, idle, took 39 % of a core for 420 CGs a second with
// pauses of at most 1 ms, 7.7 % with 20 ms, 2.3 % with 100 ms and 1.1 % with 200 ms. The three were not measured
// apart.
//
// The time of a cut is the manager's clock at the moment when all primaries were held: no write that was acknowledged
// before is missing from the CG. RPO is now minus that time for the newest recovery point.
package manager
