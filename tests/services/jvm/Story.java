// A service as there are many: a scheduler feeds pools with a hard limit, which bear the load until it grows. Its arguments
// say which pools, "pools" or "database", and a port, which it prints when it serves it. It reads words, "overload" and
// "calm", and answers each with the time (s since the epoch).

import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import io.micrometer.core.instrument.binder.jvm.ExecutorServiceMetrics;
import io.micrometer.core.instrument.binder.system.ProcessorMetrics;
import io.micrometer.prometheusmetrics.PrometheusConfig;
import io.micrometer.prometheusmetrics.PrometheusMeterRegistry;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.sql.Connection;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import javax.sql.DataSource;

public class Story {
    static final PrometheusMeterRegistry REGISTRY = new PrometheusMeterRegistry(PrometheusConfig.DEFAULT);
    static volatile int perTick = 1;

    static <T extends ExecutorService> T shown(T pool, String name) {
        new ExecutorServiceMetrics(pool, name, List.of()).bindTo(REGISTRY); // gauges only, as Spring Boot does it
        return pool;
    }

    static void pause(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    // A database that says yes to everything.
    static Object answering(Class<?> kind) {
        InvocationHandler handler = (self, method, arguments) -> {
            Class<?> gives = method.getReturnType();
            if (method.getName().equals("hashCode")) return System.identityHashCode(self);
            if (method.getName().equals("equals")) return self == arguments[0];
            if (method.getName().equals("toString")) return kind.getSimpleName();
            if (gives == Connection.class) return answering(Connection.class);
            if (gives == boolean.class) return method.getName().equals("isValid");
            if (gives == int.class) return 0;
            return null;
        };
        return Proxy.newProxyInstance(Story.class.getClassLoader(), new Class<?>[] {kind}, handler);
    }

    // The hard limit, and Boot's way to have one: a largest size that is never reached, as the queue has no bound. Beside
    // them a scheduled pool full of tasks that are not due, and a ForkJoinPool.
    static Runnable pools() {
        ExecutorService crawler = shown(Executors.newFixedThreadPool(4), "crawler");
        ExecutorService boot = shown(
            new ThreadPoolExecutor(4, Integer.MAX_VALUE, 60, TimeUnit.SECONDS, new LinkedBlockingQueue<>()), "boot");
        ForkJoinPool forks = shown(new ForkJoinPool(16), "forks");
        ScheduledExecutorService timers = shown(new ScheduledThreadPoolExecutor(8), "timers");
        for (int i = 0; i < 500; i++) timers.schedule(() -> {}, 1, TimeUnit.HOURS);
        return () -> {
            crawler.submit(() -> pause(20));
            boot.submit(() -> pause(20));
            forks.submit(() -> pause(10));
            timers.submit(() -> pause(1));
        };
    }

    // Threads that each take a connection of a small pool.
    static Runnable database() {
        ExecutorService web = shown(Executors.newFixedThreadPool(60), "web");
        HikariConfig config = new HikariConfig();
        config.setDataSource((DataSource) answering(DataSource.class));
        config.setMaximumPoolSize(2);
        config.setPoolName("main");
        config.setMetricRegistry(REGISTRY);
        HikariDataSource database = new HikariDataSource(config);
        return () -> web.submit(() -> {
            try (Connection connection = database.getConnection()) {
                pause(3);
            } catch (java.sql.SQLException late) {
                throw new IllegalStateException(late);
            }
        });
    }

    public static void main(String[] words) throws Exception {
        Runnable tick = words[0].equals("database") ? database() : pools();
        // One with which nothing is wrong.
        ExecutorService twin = shown(Executors.newFixedThreadPool(4), "twin");
        new ProcessorMetrics().bindTo(REGISTRY);
        ScheduledExecutorService scheduler = Executors.newSingleThreadScheduledExecutor();
        scheduler.scheduleAtFixedRate(() -> {
            for (int i = 0; i < perTick; i++) tick.run();
            twin.submit(() -> pause(10));
        }, 0, 20, TimeUnit.MILLISECONDS);

        int port = Integer.parseInt(words[1]);
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.createContext("/metrics", exchange -> {
            byte[] page = REGISTRY.scrape().getBytes();
            exchange.sendResponseHeaders(200, page.length);
            exchange.getResponseBody().write(page);
            exchange.close();
        });
        server.start();
        System.out.println(server.getAddress().getPort());
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String word = input.readLine(); word != null; word = input.readLine()) {
            perTick = word.equals("overload") ? (words[0].equals("database") ? 30 : 6) : 1;
            System.out.println(System.currentTimeMillis() / 1000.0);
        }
        System.exit(0);
    }
}
