//! Work that may never end, such as opening a file of a server that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::LaunchError;

/// What does such work for one pod, one piece at a time. Each has a thread of its own: those of the
/// Tokio runtime are few, and one that is stuck would be gone for everything else, undoing included.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    busy: Arc<AtomicBool>,
}

/// Says that the worker is free again, however its work ends.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Worker {
    /// Does `work`, but waits for at most `bound`; what it does not end by then, it goes on with.
    ///
    /// # Errors
    /// Also when it still does what it was given before.
    pub async fn run<T: Send + 'static>(
        &self,
        bound: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaunchError> {
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(LaunchError::StillStuck);
        }
        let busy = Busy(Arc::clone(&self.busy));
        let (answer, answered) = oneshot::channel();
        let work = move || {
            let done = work();
            drop(busy);
            // Nobody listens any more if it took too long.
            drop(answer.send(done));
        };
        let thread = std::thread::Builder::new().name("worker".into());
        thread.spawn(work).map_err(LaunchError::Thread)?;
        match timeout(bound, answered).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(LaunchError::CutOff),
            Err(_) => Err(LaunchError::Stuck(bound)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// With one thread for what blocks, and that one is needed for undoing.
    #[test]
    fn stuck_work_stops_nothing_but_its_like() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (end, ended) = mpsc::channel::<()>();
        let worker = Worker::default();
        runtime.block_on(async {
            let stuck = worker.run(Duration::from_millis(20), move || ended.recv());
            assert!(matches!(stuck.await, Err(LaunchError::Stuck(_))));
            let second = worker.clone().run(SOON, || ()).await;
            assert!(matches!(second, Err(LaunchError::StillStuck)));
            assert_eq!(Worker::default().run(SOON, || 3).await.unwrap(), 3);
            let blocking = tokio::task::spawn_blocking(|| ());
            timeout(SOON, blocking).await.unwrap().unwrap();
        });
        end.send(()).unwrap();
        while worker.busy.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let panic = runtime.block_on(worker.run(SOON, || panic!("as a test")));
        assert!(matches!(panic, Err::<(), _>(LaunchError::CutOff)));
        runtime.block_on(worker.run(SOON, || ())).unwrap();
    }
}
