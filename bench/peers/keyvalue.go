package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"go.etcd.io/bbolt"
)

func key(block uint64) []byte { return binary.BigEndian.AppendUint64(nil, block) }

// group collects the open group for stores that want it at once: the last contents of each block, in order.
type group map[uint64][]byte

func (g group) each(f func(block uint64, data []byte) error) error {
	for _, b := range slices.SortedFunc(keys(g), cmp.Compare) {
		if err := f(b, g[b]); err != nil {
			return err
		}
	}
	clear(g)
	return nil
}

func keys(g group) func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for b := range g {
			if !yield(b) {
				return
			}
		}
	}
}

type pebbleStore struct {
	db    *pebble.DB
	batch *pebble.Batch
}

func openPebble(_ context.Context, at place) (store, error) {
	cache := pebble.NewCache(256 << 20)
	defer cache.Unref()
	o := &pebble.Options{Cache: cache, MemTableSize: 64 << 20, MemTableStopWritesThreshold: 4, L0StopWritesThreshold: 32, Logger: quiet{}}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(filepath.Join(at.dir, "pebble"), o)
	if err != nil {
		return nil, err
	}
	return &pebbleStore{db, db.NewBatch()}, nil
}

func (s *pebbleStore) put(block uint64, data []byte) error {
	return s.batch.Set(key(block), data, nil)
}

func (s *pebbleStore) commit() error {
	err := errors.Join(s.batch.Commit(pebble.Sync), s.batch.Close())
	s.batch = s.db.NewBatch()
	return err
}

func (s *pebbleStore) get(block uint64, into []byte) error {
	v, closer, err := s.db.Get(key(block))
	if err != nil {
		return err
	}
	copy(into, v)
	return closer.Close()
}

func (s *pebbleStore) close() error { return errors.Join(s.batch.Close(), s.db.Close()) }

// quiet drops what a store would log.
type quiet struct{}

func (quiet) Infof(string, ...any)    {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

type boltStore struct {
	db   *bbolt.DB
	open group
}

var bucket = []byte("blocks")

func openBolt(_ context.Context, at place) (store, error) {
	db, err := bbolt.Open(filepath.Join(at.dir, "bolt"), 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &boltStore{db, group{}}, nil
}

func (s *boltStore) put(block uint64, data []byte) error {
	s.open[block] = data
	return nil
}

func (s *boltStore) commit() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		b.FillPercent = 0.9
		return s.open.each(func(block uint64, data []byte) error { return b.Put(key(block), data) })
	})
}

func (s *boltStore) get(block uint64, into []byte) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		if n := copy(into, tx.Bucket(bucket).Get(key(block))); n != blockSize {
			return fmt.Errorf("%d bytes", n)
		}
		return nil
	})
}

func (s *boltStore) close() error { return s.db.Close() }

type badgerStore struct {
	db    *badger.DB
	batch *badger.WriteBatch
}

func openBadger(_ context.Context, at place) (store, error) {
	o := badger.DefaultOptions(filepath.Join(at.dir, "badger")).WithLogger(quiet{}).WithCompression(options.None).
		WithValueThreshold(1024).WithSyncWrites(true).WithDetectConflicts(false).WithNumVersionsToKeep(1).WithValueLogFileSize(256 << 20)
	db, err := badger.Open(o)
	if err != nil {
		return nil, err
	}
	return &badgerStore{db, db.NewWriteBatch()}, nil
}

func (s *badgerStore) put(block uint64, data []byte) error { return s.batch.Set(key(block), data) }

func (s *badgerStore) commit() error {
	err := s.batch.Flush()
	s.batch = s.db.NewWriteBatch()
	// Room comes back only when it is asked for: one value log file at a time, where half of it is stale.
	if gc := s.db.RunValueLogGC(0.5); gc != nil && !errors.Is(gc, badger.ErrNoRewrite) && !errors.Is(gc, badger.ErrRejected) {
		err = errors.Join(err, gc)
	}
	return err
}

func (s *badgerStore) get(block uint64, into []byte) error {
	return s.db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(key(block))
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			copy(into, v)
			return nil
		})
	})
}

func (s *badgerStore) close() error {
	s.batch.Cancel()
	return s.db.Close()
}
