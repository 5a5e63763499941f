package store_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }
