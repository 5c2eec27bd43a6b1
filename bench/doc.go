// Package bench measures the product against the limits of the machine it runs on.
//
// Every figure is measured together with a floor: what the bare device, or the bare
// processor, can do on the same machine in the same run. The floor is what counts: a
// machine shared with others is slow in both, and the ratio stays.
//
// # Invariants
//
//   - A floor and its subject alternate (A B A B A): each repetition of the subject is
//     compared with the mean of the floor's runs just before and just after it.
//   - Where whole controls are measured, the floor runs under the same load as they do, and hosts are the same client
//     on both sides.
//   - Floor and subject use the same device region, which was written once in full before, so that neither
//     meets the first touch of a sparse file's or thin device's space.
//   - Everything in the region is destroyed: the first [Options].Size bytes of the device. What a device held
//     before is for the caller to look at.
//   - What bench makes (loop devices, files, processes) is gone when [Run] returns, also when its context was
//     cancelled; loop devices and processes do not outlive this process even if that is killed. Files with a name do:
//     the folder of a workload that runs controls holds their configuration, logs and decision log.
//   - A goal that was not reached is reported as such; a figure that could not be
//     measured is left out with a note that says why.
//
// A workload is one entry in the registry (registry.go): a name, a sentence, and a function that gets a device and
// returns results. Some make devices of their own and run whole controls on them (cluster.go): farside itself, once
// for each role ([Options].Command).
package bench
