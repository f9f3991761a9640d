//go:build linux

package trap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

const dirEnv = "RMQ_TRAP_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dirEnv); dir != "" {
		if err := work(dir); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// work makes some calls on files of a directory, those of a file each from
// another goroutine.
func work(dir string) error {
	if err := Enter(); err != nil {
		return err
	}
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = workOn(filepath.Join(dir, fmt.Sprint(i))) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func workOn(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("first"))
	_, err1 := f.WriteAt([]byte("second"), 100)
	if err := errors.Join(err, err1, f.Truncate(200), f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(path, path+".new"), os.Remove(path+".new"))
}

// run runs work under a judge and returns what it saw.
func run(t *testing.T, judge func(n int, c Call) Verdict) (calls []Call, out string, exit int) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = write
	p, err := Start(cmd, func(c Call) Verdict {
		if filepath.Dir(c.Path) != dir {
			return Pass
		}
		calls = append(calls, c)
		return judge(len(calls), c)
	})
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	b := make([]byte, 4096)
	n, _ := read.Read(b) // nothing, when nothing went wrong
	read.Close()
	err = p.Wait()
	var left *exec.ExitError
	if err != nil && !errors.As(err, &left) {
		t.Fatal(err)
	}
	return calls, string(b[:n]), cmd.ProcessState.ExitCode()
}

func pass(int, Call) Verdict { return Pass }

func TestTrap_SeesEachCallOnce(t *testing.T) {
	calls, out, exit := run(t, pass)
	if exit != 0 {
		t.Fatalf("exit code %d: %s", exit, out)
	}
	var names []string
	for _, c := range calls {
		if c.Path == "" || !slices.Contains(Names(), c.Name) {
			t.Errorf("call %+v", c)
		}
		if filepath.Base(c.Path)[0] == '1' {
			names = append(names, c.Name)
		}
	}
	if len(calls) != 3*7 || len(names) != 7 {
		t.Fatalf("%d calls, of one file %v; want 7 of each of 3 files", len(calls), names)
	}
}

func TestTrap_KillsAtEachCall(t *testing.T) {
	for n := 1; n <= 3*7; n++ {
		calls, _, exit := run(t, func(at int, _ Call) Verdict {
			if at == n {
				return Kill
			}
			return Pass
		})
		if exit != -1 || len(calls) < n {
			t.Fatalf("at call %d: exit code %d after %d calls", n, exit, len(calls))
		}
	}
}

func TestTrap_FailsAndSkips(t *testing.T) {
	_, out, exit := run(t, func(_ int, c Call) Verdict {
		if c.Name == "fsync" {
			return Fail(syscall.EIO)
		}
		return Pass
	})
	if want := syscall.EIO.Error(); exit != 3 || !strings.Contains(out, want) {
		t.Errorf("exit code %d, %q; want one that says %q", exit, out, want)
	}
	_, out, exit = run(t, func(_ int, c Call) Verdict {
		if c.Name == "fsync" {
			return Skip
		}
		return Pass
	})
	if exit != 0 {
		t.Errorf("skipped: exit code %d, %q", exit, out)
	}
}

func TestEnter_WithoutTrap(t *testing.T) {
	if err := Enter(); err != nil {
		t.Fatal(err)
	}
}
