package cli_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(interruptibleVariable) != "" {
		waitForInterrupts()
	}
	goleak.VerifyTestMain(pgtest.M{M: m})
}
