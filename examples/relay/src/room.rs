//! Who hears whom.

use std::collections::HashMap;

use crate::wire::{MemberId, SessionId};

/// Where a room lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoomIndex(pub u32);

/// Why nobody more can be in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// There are as many rooms as there may be.
    Rooms,
    /// It has as many members as it may.
    Members,
}

/// A room with its members.
struct Room {
    name: Box<str>,
    /// By [`MemberId`]; those who left leave a gap that the next one fills.
    members: Vec<Option<SessionId>>,
}

/// The rooms of one shard. A name is looked at when somebody joins; a packet knows its room's index.
pub struct Rooms {
    rooms: Vec<Option<Room>>,
    free: Vec<RoomIndex>,
    by_name: HashMap<Box<str>, RoomIndex>,
    members_max: usize,
}

impl Rooms {
    /// So many rooms, and members in each.
    pub fn new(rooms_max: usize, members_max: u16) -> Self {
        let most = u32::try_from(rooms_max).unwrap_or(u32::MAX);
        Self {
            rooms: std::iter::repeat_with(|| None).take(most as usize).collect(),
            free: (0..most).rev().map(RoomIndex).collect(),
            by_name: HashMap::with_capacity(most as usize),
            members_max: members_max.into(),
        }
    }

    /// Rooms with a member.
    pub fn len(&self) -> usize {
        self.rooms.len() - self.free.len()
    }

    /// Whether nobody is anywhere.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in the room of that name one more can be; makes the room if there is none.
    /// [`enter`](Self::enter) must follow.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing has changed then.
    pub fn place(&mut self, name: &str) -> Result<(RoomIndex, MemberId), NoRoom> {
        if let Some(index) = self.by_name.get(name) {
            let members = self.members(*index);
            let place = members.iter().position(Option::is_none).unwrap_or(members.len());
            return if place < self.members_max {
                // Below `members_max`, which is a u16.
                Ok((*index, MemberId(place as u16)))
            } else {
                Err(NoRoom::Members)
            };
        }
        let index = self.free.pop().ok_or(NoRoom::Rooms)?;
        let members = Vec::with_capacity(self.members_max.min(8));
        self.rooms[index.0 as usize] = Some(Room { name: name.into(), members });
        self.by_name.insert(name.into(), index);
        Ok((index, MemberId(0)))
    }

    /// Puts a session where [`place`](Self::place) said.
    pub fn enter(&mut self, room: RoomIndex, member: MemberId, session: SessionId) {
        let Some(room) = self.rooms.get_mut(room.0 as usize).and_then(Option::as_mut) else { return };
        let at = usize::from(member.0);
        if room.members.len() <= at {
            room.members.resize(at + 1, None);
        }
        room.members[at] = Some(session);
    }

    /// Takes a member out. The last one closes the room.
    pub fn leave(&mut self, index: RoomIndex, member: MemberId) {
        let Some(place) = self.rooms.get_mut(index.0 as usize) else { return };
        let Some(room) = place else { return };
        if let Some(seat) = room.members.get_mut(usize::from(member.0)) {
            *seat = None;
        }
        if room.members.iter().all(Option::is_none) {
            self.by_name.remove(&room.name);
            *place = None;
            self.free.push(index);
        }
    }

    /// Who is in it, by member; a gap is nobody. O(1).
    #[inline]
    pub fn members(&self, room: RoomIndex) -> &[Option<SessionId>] {
        let room = self.rooms.get(room.0 as usize).and_then(Option::as_ref);
        room.map_or(&[], |room| &room.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(rooms: &mut Rooms, name: &str, session: u64) -> Result<(RoomIndex, MemberId), NoRoom> {
        let (room, member) = rooms.place(name)?;
        rooms.enter(room, member, SessionId(session));
        Ok((room, member))
    }

    #[test]
    fn members_come_and_go_and_the_last_one_closes_the_room() {
        let mut rooms = Rooms::new(1, 2);
        let (room, first) = enter(&mut rooms, "a", 1).unwrap();
        assert_eq!(enter(&mut rooms, "a", 2), Ok((room, MemberId(1))));
        assert_eq!(enter(&mut rooms, "a", 3), Err(NoRoom::Members));
        assert_eq!(enter(&mut rooms, "b", 3), Err(NoRoom::Rooms));
        rooms.leave(room, first);
        assert_eq!(rooms.members(room), [None, Some(SessionId(2))]);
        assert_eq!(enter(&mut rooms, "a", 4), Ok((room, first)));
        rooms.leave(room, MemberId(0));
        rooms.leave(room, MemberId(1));
        assert_eq!((rooms.len(), rooms.members(room).len()), (0, 0));
        assert!(enter(&mut rooms, "b", 5).is_ok());
    }
}
