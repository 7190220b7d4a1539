//! Who listens, and what waits for each: bounded in number, and in how much is kept for who does not read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use relayscope_bridge::catalogue;
use tokio::sync::Notify;

use crate::ControlPlane;

/// Clients at a time.
pub(super) const CLIENTS_MAX: usize = 32;
/// What was told and waits for a client to take it: some quarter of a minute. A client for whom more would wait is
/// cut off.
const WAITING_MAX: usize = 16;

/// There are as many clients as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{CLIENTS_MAX} clients listen already; expected no more, close one and try again")]
pub(super) struct TooManyClients;

/// All clients, who share what they are told.
pub(super) struct Clients {
    plane: ControlPlane,
    list: Mutex<List>,
    joined: Notify,
}

#[derive(Default)]
struct List {
    clients: Vec<Arc<Client>>,
    /// Whether somebody tells them.
    is_told: bool,
}

/// Who joined, and whether there is to be somebody from now on who tells.
pub(super) struct Joined {
    pub(super) body: ClientBody,
    pub(super) is_first: bool,
}

impl Clients {
    pub(super) fn new(plane: ControlPlane) -> Self {
        let clients = Self { plane, list: Mutex::default(), joined: Notify::new() };
        // There from the start: of a counter that begins with its first event, that one is no increase.
        clients.plane.own().add(&catalogue::HTTP_LIVE_CUT, &[], 0);
        clients.show(&clients.list());
        clients
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>) -> Result<Joined, TooManyClients> {
        let mut list = self.list();
        if list.clients.len() >= CLIENTS_MAX {
            return Err(TooManyClients);
        }
        let client = Arc::new(Client::default());
        list.clients.push(Arc::clone(&client));
        let is_first = !std::mem::replace(&mut list.is_told, true);
        self.show(&list);
        drop(list);
        self.joined.notify_one();
        Ok(Joined { body: ClientBody { client, clients: Arc::clone(self) }, is_first })
    }

    /// Resolves when somebody joined since it last did.
    pub(super) async fn joined(&self) {
        self.joined.notified().await;
    }

    /// Whether nobody listens any more; then nobody is told by this one any more, either.
    pub(super) fn are_gone(&self) -> bool {
        let mut list = self.list();
        list.is_told = !list.clients.is_empty();
        !list.is_told
    }

    /// Whether somebody was told nothing yet.
    pub(super) fn has_new(&self) -> bool {
        self.list().clients.iter().any(|client| client.queue().is_new)
    }

    /// Tells `all` to whoever was told something before, and `first` to the others, who are left waiting without it.
    /// Who does not read is cut off.
    pub(super) fn tell(&self, all: &Bytes, first: Option<&Bytes>) {
        let mut list = self.list();
        let mut cut = 0;
        list.clients.retain(|client| {
            let keeps_up = client.tell(all, first);
            cut += u64::from(!keeps_up);
            keeps_up
        });
        self.show(&list);
        drop(list);
        if cut > 0 {
            self.plane.own().add(&catalogue::HTTP_LIVE_CUT, &[], cut);
        }
    }

    /// Ends all answers: nobody tells them anything any more.
    pub(super) fn end(&self) {
        let mut list = self.list();
        list.clients.drain(..).for_each(|client| client.end(End::Over));
        list.is_told = false;
        self.show(&list);
    }

    fn leave(&self, client: &Arc<Client>) {
        let mut list = self.list();
        list.clients.retain(|other| !Arc::ptr_eq(other, client));
        self.show(&list);
    }

    fn show(&self, list: &List) {
        self.plane.own().set(&catalogue::HTTP_LIVE_CLIENTS, &[], list.clients.len() as f64);
    }
}

/// One that listens.
#[derive(Default)]
struct Client {
    queue: Mutex<Queue>,
    is_cut: Arc<AtomicBool>,
}

struct Queue {
    waiting: VecDeque<Bytes>,
    is_new: bool,
    end: Option<End>,
    reader: Option<Waker>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), is_new: true, end: None, reader: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After what waits.
    Over,
    /// At once.
    CutOff,
}

impl Client {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it keeps up.
    fn tell(&self, all: &Bytes, first: Option<&Bytes>) -> bool {
        let mut queue = self.queue();
        let told = match (queue.is_new, first) {
            (true, None) => return true,
            (true, Some(first)) => first,
            (false, _) if all.is_empty() => return true,
            (false, _) => all,
        };
        if queue.waiting.len() >= WAITING_MAX {
            drop(queue);
            self.end(End::CutOff);
            return false;
        }
        queue.is_new = false;
        queue.waiting.push_back(told.clone());
        wake(queue);
        true
    }

    fn end(&self, end: End) {
        let mut queue = self.queue();
        if end == End::CutOff {
            self.is_cut.store(true, Ordering::Relaxed);
            queue.waiting.clear();
        }
        queue.end = Some(end);
        // Of a client that does not read nobody polls the body: it is its connection that wakes, and sees that it is cut.
        wake(queue);
    }
}

/// Whoever read last is to look again. It may be one that does not come back here for what waits, as its connection
/// takes nothing: it is woken all the same, every time.
fn wake(queue: MutexGuard<'_, Queue>) {
    let reader = queue.reader.clone();
    drop(queue);
    reader.into_iter().for_each(Waker::wake);
}

/// What a client is answered: all it is told, for as long as it is there.
pub(super) struct ClientBody {
    client: Arc<Client>,
    clients: Arc<Clients>,
}

impl ClientBody {
    /// Set once it is to be cut off.
    pub(super) fn is_cut(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.client.is_cut)
    }
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let mut queue = self.client.queue();
        // Also while there is something: who takes it may be too slow for what comes after.
        queue.reader = Some(cx.waker().clone());
        match (queue.waiting.pop_front(), queue.end) {
            (_, Some(End::CutOff)) => Poll::Ready(Some(Err(CutOff))),
            (Some(told), _) => Poll::Ready(Some(Ok(Frame::data(told)))),
            (None, Some(End::Over)) => Poll::Ready(None),
            (None, None) => Poll::Pending,
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.clients.leave(&self.client);
    }
}

/// It did not read what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client does not read what it is told")]
pub(super) struct CutOff;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use relayscope_bridge::{Hub, HubConfig, hub};

    use super::*;
    use crate::ControlPlaneConfig;

    fn clients() -> Arc<Clients> {
        let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
        Arc::new(Clients::new(ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap()))
    }

    fn exposed(clients: &Clients, name: &str) -> f64 {
        let text = String::from_utf8(clients.plane.exposition().to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        value.parse().unwrap()
    }

    /// The next of what waits; `None` where nothing does.
    async fn next(body: &mut ClientBody) -> Option<Result<Bytes, CutOff>> {
        poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map(|frame| frame.into_data().unwrap()))),
            Poll::Ready(None) | Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn all_share_one_body_and_who_is_new_is_told_from_the_begin() {
        let clients = clients();
        let Joined { body: mut one, is_first } = clients.join().unwrap();
        assert!(is_first);
        let (first, all) = (Bytes::from("first"), Bytes::from("all"));
        clients.tell(&all, None);
        assert_eq!(next(&mut one).await, None, "it is told from the begin or not at all");
        clients.tell(&all, Some(&first));
        let Joined { body: mut other, is_first } = clients.join().unwrap();
        assert!(!is_first && clients.has_new());
        clients.tell(&all, Some(&first));
        assert!(!clients.has_new());
        clients.tell(&all, None);
        assert_eq!(next(&mut one).await, Some(Ok(first.clone())));
        assert_eq!(next(&mut other).await, Some(Ok(first)));
        assert_eq!(next(&mut one).await, Some(Ok(all.clone())));
        let (of_one, of_other) =
            (next(&mut one).await.unwrap().unwrap(), next(&mut other).await.unwrap().unwrap());
        assert_eq!(of_one.as_ptr(), of_other.as_ptr(), "nothing is copied");
        assert_eq!(of_one.as_ptr(), all.as_ptr());
    }

    #[tokio::test]
    async fn a_client_for_whom_too_much_waits_is_cut_off_and_nothing_is_kept_for_it() {
        let clients = clients();
        let (mut slow, mut quick) = (clients.join().unwrap().body, clients.join().unwrap().body);
        let told = Bytes::from(b"told".to_vec());
        let is_cut = slow.is_cut();
        for _ in 0..WAITING_MAX {
            clients.tell(&told, Some(&told));
            assert_eq!(next(&mut quick).await, Some(Ok(told.clone())));
        }
        assert!(!is_cut.load(Ordering::Relaxed));
        clients.tell(&told, None);
        assert!(is_cut.load(Ordering::Relaxed));
        assert_eq!(next(&mut quick).await, Some(Ok(told.clone())));
        assert!(told.is_unique(), "nobody keeps it");
        assert_eq!(next(&mut slow).await, Some(Err(CutOff)));
        assert_eq!(exposed(&clients, "relay_http_live_cut_total"), 1.0);
        assert_eq!(exposed(&clients, "relay_http_live_clients"), 1.0);
    }

    #[tokio::test]
    async fn clients_are_bounded_and_one_that_leaves_makes_room() {
        let clients = clients();
        let mut bodies: Vec<_> = (0..CLIENTS_MAX).map(|_| clients.join().unwrap().body).collect();
        assert_eq!(clients.join().err(), Some(TooManyClients));
        assert_eq!(exposed(&clients, "relay_http_live_clients"), 32.0);
        bodies.pop();
        assert!(clients.join().is_ok());
        bodies.clear();
        assert!(clients.are_gone());
        assert!(clients.join().unwrap().is_first, "somebody is to tell again");
    }

    #[tokio::test]
    async fn an_end_comes_after_what_waits() {
        let clients = clients();
        let mut body = clients.join().unwrap().body;
        let told = Bytes::from("told");
        clients.tell(&told, Some(&told));
        clients.end();
        assert_eq!(next(&mut body).await, Some(Ok(told)));
        let end = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        assert!(matches!(end, Poll::Ready(None)));
    }
}
