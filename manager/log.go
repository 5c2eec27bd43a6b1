package manager

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Log is the durable log of decisions: what a manager must know after a restart. Methods
// return when what they did is durable; after an error it is not known whether it is.
type Log interface {
	// Begin starts a new epoch of a group, higher than every one before and not below floor, and returns what the log
	// holds. A floor taken from the clock keeps epochs growing even if the log is lost.
	Begin(group string, floor uint64) (Recovered, error)
	// Append makes a record durable.
	Append(group string, r Record) error
	// History returns the newest decisions of a group, newest first, at most limit.
	History(group string, limit int) ([]Decision, error)
	Close() error
}

// decisionsKept is how many DECIDED records the log keeps per group; only the newest is needed.
const decisionsKept = 1000

var (
	metaBucket    = []byte("farside-manager")
	groupsBucket  = []byte("groups")
	decidedBucket = []byte("decided")
	formatKey     = []byte("format")
	epochKey      = []byte("epoch")
	reservedKey   = []byte("reserved")
	settingsKey   = []byte("settings")
	pausedKey     = []byte("paused")
	membersKey    = []byte("members")
)

const logFormat = 1

// boltLog keeps the log in one bbolt file: bucket "groups", in it one bucket per group with the keys epoch, reserved
// (u64, big-endian), settings (JSON), members (JSON), paused (one byte) and the bucket decided: CG number (u64,
// big-endian) to Decision (JSON).
type boltLog struct{ db *bolt.DB }

// OpenLog opens the decision log in a bbolt file, and makes it if it does not exist. The file is locked: a second
// manager on it is refused.
func OpenLog(path string) (Log, error) {
	_, statErr := os.Stat(path)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("manager: decision log %s is in use: stop the manager that has it first: %w (%w)", path, ErrLogInUse, err)
	}
	if err != nil {
		return nil, fmt.Errorf("manager: decision log %s cannot be opened: %w", path, err)
	}
	l := &boltLog{db}
	err = db.Update(checkFormat)
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = syncDir(filepath.Dir(path)) // or the file itself may vanish in a crash
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("manager: decision log %s: %w", path, err), db.Close())
	}
	return l, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFormat refuses a bbolt file that is not a decision log, or one of a later version.
func checkFormat(tx *bolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return fmt.Errorf("holds bucket %q: it is the database of something else; name another file", k)
		}
		var err error
		if meta, err = tx.CreateBucket(metaBucket); err != nil {
			return err
		}
		if err := putUint(meta, formatKey, logFormat); err != nil {
			return err
		}
		_, err = tx.CreateBucket(groupsBucket)
		return err
	}
	v, err := getUint(meta, formatKey)
	if err != nil {
		return err
	}
	if v != logFormat || tx.Bucket(groupsBucket) == nil {
		return fmt.Errorf("has format %d, this program knows format %d only", v, logFormat)
	}
	return nil
}

func (l *boltLog) Close() error { return l.db.Close() }

// at gives errors their location.
func (l *boltLog) at(group string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("manager: decision log %s, group %s: %w", l.db.Path(), group, err)
}

func (l *boltLog) Begin(group string, floor uint64) (rec Recovered, err error) {
	err = l.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.Bucket(groupsBucket).CreateBucketIfNotExists([]byte(group))
		if err != nil {
			return err
		}
		if rec, err = readGroup(b); err != nil {
			return err
		}
		rec.Epoch = max(rec.Epoch+1, floor)
		return putUint(b, epochKey, rec.Epoch)
	})
	return rec, l.at(group, err)
}

func readGroup(b *bolt.Bucket) (rec Recovered, err error) {
	if rec.Epoch, err = getUint(b, epochKey); err != nil {
		return rec, err
	}
	if rec.Reserved, err = getUint(b, reservedKey); err != nil {
		return rec, err
	}
	if v := b.Get(settingsKey); v != nil {
		rec.Settings = new(Settings)
		if err := json.Unmarshal(v, rec.Settings); err != nil {
			return rec, fmt.Errorf("key %s: %w", settingsKey, err)
		}
	}
	if v := b.Get(pausedKey); v != nil {
		rec.Paused = len(v) == 1 && v[0] == 1
	}
	if v := b.Get(membersKey); v != nil {
		rec.Members = new(Members)
		if err := json.Unmarshal(v, rec.Members); err != nil {
			return rec, fmt.Errorf("key %s: %w", membersKey, err)
		}
	}
	ds, err := decisions(b, 1)
	if len(ds) > 0 {
		rec.Decided = ds[0]
	}
	// Only what was decided or given out counts: a manager that died before it could look around knows nothing.
	rec.Known = rec.Reserved > 0 || rec.Decided.CG > 0
	return rec, err
}

func decisions(b *bolt.Bucket, limit int) ([]Decision, error) {
	d := b.Bucket(decidedBucket)
	if d == nil {
		return nil, nil
	}
	var out []Decision
	c := d.Cursor()
	for k, v := c.Last(); k != nil && len(out) < limit; k, v = c.Prev() {
		var x Decision
		if err := json.Unmarshal(v, &x); err != nil {
			return nil, fmt.Errorf("decision %x: %w", k, err)
		}
		if len(k) != 8 || binary.BigEndian.Uint64(k) != x.CG {
			return nil, fmt.Errorf("decision %x says that it is of CG %d", k, x.CG)
		}
		out = append(out, x)
	}
	return out, nil
}

func (l *boltLog) Append(group string, r Record) error {
	return l.at(group, l.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(groupsBucket).Bucket([]byte(group))
		if b == nil {
			return errors.New("was never begun")
		}
		return appendRecord(b, r)
	}))
}

func appendRecord(b *bolt.Bucket, r Record) error {
	var errs []error
	if r.Decided != nil {
		errs = append(errs, putDecision(b, *r.Decided))
	}
	if r.Reserve > 0 {
		errs = append(errs, putUint(b, reservedKey, r.Reserve))
	}
	if r.Settings != nil {
		v, err := json.Marshal(r.Settings)
		errs = append(errs, err, b.Put(settingsKey, v))
	}
	if r.Members != nil {
		v, err := json.Marshal(r.Members)
		errs = append(errs, err, b.Put(membersKey, v))
	}
	if r.Paused != nil {
		v := []byte{0}
		if *r.Paused {
			v[0] = 1
		}
		errs = append(errs, b.Put(pausedKey, v))
	}
	return errors.Join(errs...)
}

func putDecision(b *bolt.Bucket, d Decision) error {
	bucket, err := b.CreateBucketIfNotExists(decidedBucket)
	if err != nil {
		return err
	}
	v, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := bucket.Put(binary.BigEndian.AppendUint64(nil, d.CG), v); err != nil {
		return err
	}
	return trimDecisions(bucket)
}

// trimDecisions drops the oldest record once there are too many; the bucket's sequence counts them up to the limit.
func trimDecisions(b *bolt.Bucket) error {
	if b.Sequence() < decisionsKept {
		_, err := b.NextSequence()
		return err
	}
	k, _ := b.Cursor().First()
	return b.Delete(k)
}

func (l *boltLog) History(group string, limit int) (out []Decision, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(groupsBucket).Bucket([]byte(group))
		if b == nil {
			return nil
		}
		out, err = decisions(b, limit)
		return err
	})
	return out, l.at(group, err)
}

func putUint(b *bolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

func getUint(b *bolt.Bucket, key []byte) (uint64, error) {
	v := b.Get(key)
	if v == nil {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("key %s has %d bytes, must have 8", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
