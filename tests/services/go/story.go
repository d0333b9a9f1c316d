// A Go service that feeds pools of goroutines, which bear the load until it grows. Its arguments say which, "database" or
// "computing", and a port, which it prints when it serves it. It reads words, "overload" and "calm", and answers each with
// the time (s since the epoch).
package main

import (
	"bufio"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// A database that lends connections and is never asked anything.
type connector struct{}

func (connector) Connect(context.Context) (driver.Conn, error) { return connection{}, nil }
func (connector) Driver() driver.Driver                        { return nil }

type connection struct{}

func (connection) Prepare(string) (driver.Stmt, error) { return nil, errors.New("it has no tables") }
func (connection) Begin() (driver.Tx, error)           { return nil, errors.New("it has no tables") }
func (connection) Close() error                        { return nil }

// A pool of goroutines as programs write it, and its numbers as they show them: see `mappings` in the test.
type pool struct {
	work         chan func()
	active, done atomic.Int64
}

func newPool(registry *prometheus.Registry, name string, workers int) *pool {
	made := &pool{work: make(chan func(), 1_000_000)}
	for i := 0; i < workers; i++ {
		go func() {
			for task := range made.work {
				made.active.Add(1)
				task()
				made.active.Add(-1)
				made.done.Add(1)
			}
		}()
	}
	labels := prometheus.Labels{"pool": name}
	gauge := func(metric string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metric, ConstLabels: labels}, value))
	}
	gauge("workers_limit", func() float64 { return float64(workers) })
	gauge("workers_active", func() float64 { return float64(made.active.Load()) })
	gauge("workers_queued", func() float64 { return float64(len(made.work)) })
	registry.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: "workers_done_total", ConstLabels: labels},
		func() float64 { return float64(made.done.Load()) }))
	return made
}

// Threads enough, and a small pool of connections that each of them takes.
func database(registry *prometheus.Registry) (func(), int) {
	db := sql.OpenDB(connector{})
	db.SetMaxOpenConns(2)
	db.SetMaxIdleConns(2)
	registry.MustRegister(collectors.NewDBStatsCollector(db, "main"))
	web := newPool(registry, "web", 60)
	return func() {
		web.work <- func() {
			held, err := db.Conn(context.Background())
			if err != nil {
				panic(err)
			}
			time.Sleep(3 * time.Millisecond)
			held.Close()
		}
	}, 20
}

// One that waits, with a hard limit.
func waiting(registry *prometheus.Registry) (func(), int) {
	crawler := newPool(registry, "crawler", 4)
	return func() { crawler.work <- func() { time.Sleep(20 * time.Millisecond) } }, 5
}

// More workers than GOMAXPROCS, and each computes.
func computing(registry *prometheus.Registry) (func(), int) {
	runtime.GOMAXPROCS(1)
	render := newPool(registry, "render", 4)
	return func() {
		render.work <- func() {
			sum := uint32(1)
			for i := 0; i < 2_000_000; i++ {
				sum = sum*1664525 + 1013904223
			}
			seen.Store(sum)
		}
	}, 12
}

var seen atomic.Uint32

// Does not say when the process started: what is over so soon after that is taken for its warm-up.
type grown struct{ prometheus.Gatherer }

func (it grown) Gather() ([]*dto.MetricFamily, error) {
	families, err := it.Gatherer.Gather()
	shown := families[:0]
	for _, family := range families {
		if family.GetName() != "process_start_time_seconds" {
			shown = append(shown, family)
		}
	}
	return shown, err
}

func main() {
	kinds := map[string]func(*prometheus.Registry) (func(), int){
		"database": database, "waiting": waiting, "computing": computing}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
			collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile("^/sched/gomaxprocs")})))
	task, overloaded := kinds[os.Args[1]](registry)
	// One with which nothing is wrong. Where others compute, nothing is well.
	wait := func() {}
	if os.Args[1] != "computing" {
		twin := newPool(registry, "twin", 4)
		wait = func() { twin.work <- func() { time.Sleep(10 * time.Millisecond) } }
	}
	var perTick atomic.Int64
	perTick.Store(1)
	go func() {
		// As many as the clock says, however late this comes to run.
		for due := time.Now(); ; due = due.Add(20 * time.Millisecond) {
			time.Sleep(time.Until(due))
			for i := int64(0); i < perTick.Load(); i++ {
				task()
			}
			wait()
		}
	}()

	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[2])
	if err != nil {
		panic(err)
	}
	http.Handle("/metrics", promhttp.HandlerFor(grown{registry}, promhttp.HandlerOpts{}))
	go http.Serve(listener, nil)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		if input.Text() == "overload" {
			perTick.Store(int64(overloaded))
		} else {
			perTick.Store(1)
		}
		fmt.Printf("%.3f\n", float64(time.Now().UnixMilli())/1000)
	}
}
